FROM python:3.11-slim-bookworm AS deps
RUN python -m venv /venv
COPY requirements.txt ./
RUN --mount=type=cache,target=/root/.cache /venv/bin/pip install -r requirements.txt

FROM python:3.11-slim-bookworm
WORKDIR /app
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/venv/bin:$PATH
RUN useradd --uid 1000 --create-home app
COPY --from=deps /venv /venv
COPY --chown=app . .
USER app
CMD ["gunicorn", "app:app"]
