FROM ruby:3.1-slim-bookworm AS build
WORKDIR /app
ENV BUNDLE_FROZEN=1 BUNDLE_WITHOUT=development:test
RUN apt-get update && apt-get install -y --no-install-recommends build-essential git libyaml-dev pkg-config && rm -rf /var/lib/apt/lists/*
COPY Gemfile Gemfile.lock .ruby-version* ./
RUN bundle install

FROM ruby:3.1-slim-bookworm
WORKDIR /app
ENV RACK_ENV=production BUNDLE_FROZEN=1 BUNDLE_WITHOUT=development:test
RUN useradd --uid 1000 --create-home app
COPY --from=build /usr/local/bundle /usr/local/bundle
COPY --chown=app . .
USER app
CMD ["/bin/sh", "-c", "exec bundle exec puma -b tcp://0.0.0.0:$PORT"]
