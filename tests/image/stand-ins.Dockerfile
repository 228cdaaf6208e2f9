# What stands in for images that cannot be pulled: the same servers from Debian and PyPI, started with the same command
# lines; where no such server is to be had, something that answers where its health is asked for.
FROM stand-in:base AS servers
RUN apt-get update && apt-get install -y --no-install-recommends busybox prometheus valkey-server valkey-tools
COPY nats-server /usr/local/bin/
RUN ln -s /bin/busybox /usr/local/bin/wget

FROM servers AS nats
ENTRYPOINT ["nats-server"]

FROM servers AS valkey

FROM servers AS prometheus
RUN mkdir /prometheus && chown nobody /prometheus
USER nobody
ENTRYPOINT ["prometheus"]

FROM servers AS jaeger
RUN mkdir /www && touch /www/status
USER 10001
ENTRYPOINT ["busybox", "httpd", "-f", "-p", "13133", "-h", "/www"]

FROM servers AS grafana
USER 472
ENTRYPOINT ["sh", "-c", "mkdir -p /tmp/www/api && env | grep ^GF_ > /tmp/www/api/health && exec busybox httpd -f -p $GF_SERVER_HTTP_ADDR:$GF_SERVER_HTTP_PORT -h /tmp/www"]

FROM cnm:latest AS collector
COPY collector.py /
USER 10001
ENTRYPOINT ["python3", "/collector.py"]
