# docker build -t sluice .    The command is `sluice`: docker run sluice worker /etc/sluice/config.yaml events
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/sluice
COPY constraints.txt pyproject.toml ./
# The libraries alone first: their layer stays cached while only Sluice's own code changes.
RUN /opt/sluice/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    > dependencies.txt \
    && /opt/sluice/bin/pip install --no-cache-dir -c constraints.txt -r dependencies.txt
COPY agents agents
COPY pipeline pipeline
COPY schemas schemas
COPY sinks sinks
COPY sluice sluice
COPY stream stream
RUN /opt/sluice/bin/pip install --no-cache-dir -c constraints.txt --no-deps .

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home sluice \
    && install -d -o sluice -g sluice -m 0700 /var/lib/sluice
COPY --from=build /opt/sluice /opt/sluice
ENV PATH=/opt/sluice/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /var/lib/sluice
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9464/live', timeout=4)"]
ENTRYPOINT ["sluice"]
CMD ["--help"]
