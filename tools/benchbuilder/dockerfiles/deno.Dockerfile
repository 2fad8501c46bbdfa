FROM denoland/deno:debian
WORKDIR /app
ENV DENO_DIR=/app/.deno
COPY deno.json deno.lock ./
RUN deno install --frozen
COPY . .
RUN deno cache main.ts && chown -R deno /app
USER deno
ENTRYPOINT []
CMD ["deno", "task", "start"]
