FROM composer:2 AS deps
WORKDIR /app
COPY . .
RUN --mount=type=cache,target=/tmp/cache composer install --no-dev --no-interaction --optimize-autoloader --ignore-platform-reqs

FROM php:8.2-apache-bookworm
WORKDIR /app
RUN sed -i 's/Listen 80/Listen ${PORT}/; s/:80>/:${PORT}>/; s#/var/www/html#/app/public#' /etc/apache2/ports.conf /etc/apache2/sites-available/000-default.conf /etc/apache2/apache2.conf && a2enmod rewrite
ENV PORT=8080
COPY --from=deps --chown=www-data /app /app
USER www-data
CMD ["apache2-foreground"]
