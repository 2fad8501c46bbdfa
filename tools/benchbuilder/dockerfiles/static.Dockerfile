FROM nginx:stable-alpine-slim
RUN printf 'pid /tmp/nginx.pid; error_log stderr; events {} http { include mime.types; access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; server { listen 8080; root /www; } }' >/etc/nginx/nginx.conf
COPY public /www
USER 1000
ENTRYPOINT []
CMD ["nginx", "-g", "daemon off;"]
