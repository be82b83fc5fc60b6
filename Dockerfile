# The pages and the worker of one workspace. docs/deploy.md says how to build and run it.
FROM python:3.13-slim-bookworm AS build
# What is installed, each with its hash: requirements/postgres.lock has the drivers for PostgreSQL as well.
ARG LOCK=requirements/runtime.lock
WORKDIR /source
RUN python -m venv /opt/newsletter
COPY ${LOCK} /tmp/lock.txt
RUN /opt/newsletter/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /tmp/lock.txt
COPY . .
RUN /opt/newsletter/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation .

FROM python:3.13-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /workspace --shell /usr/sbin/nologin newsletter \
    && install -d -o newsletter -g newsletter -m 700 /workspace
COPY --from=build /opt/newsletter /opt/newsletter
ENV PATH=/opt/newsletter/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER newsletter
WORKDIR /workspace
VOLUME /workspace
EXPOSE 8000
# Below the path of base_url where it has one: then --health-cmd says so.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4).read()"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["newsletter"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
