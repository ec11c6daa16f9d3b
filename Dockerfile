# syntax=docker/dockerfile:1
# The daemon in a small image, as an unprivileged user.
#
#     docker build -t dosvc .
#     docker run -d --name dosvc --network host -v dosvc-state:/var/lib/dosvc dosvc
#     docker exec dosvc dosvc status
#
# Peers on the LAN are found by multicast DNS and are told by their subnet: use the host's network, or a macvlan.

FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake g++ make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package dosvc --bin dosvc \
    && install -D -m 0755 target/release/dosvc /out/dosvc

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 7680 dosvc \
    && useradd --system --uid 7680 --gid dosvc --home-dir /var/lib/dosvc --shell /usr/sbin/nologin dosvc \
    && install -d -o dosvc -g dosvc -m 0750 /var/lib/dosvc /run/dosvc \
    && install -d -m 0755 /etc/dosvc
COPY --from=build /out/dosvc /usr/local/bin/dosvc
COPY config/dosvc.toml /etc/dosvc/dosvc.toml
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/dosvc/

ENV STATE_DIRECTORY=/var/lib/dosvc RUNTIME_DIRECTORY=/run/dosvc
USER dosvc:dosvc
VOLUME ["/var/lib/dosvc"]
# Swarm protocol; its QUIC form; Teredo.
EXPOSE 7680/tcp 7680/udp 3544/udp
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s --retries=3 \
    CMD ["dosvc", "status", "--json"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["dosvc"]
CMD ["run", "--config", "/etc/dosvc/dosvc.toml"]
