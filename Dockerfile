# The mesh server as an image. It contains git and ssh, and needs the Docker Engine's
# socket:
#
#   make image                                  from bin/mesh
#   docker build -t mesh/mesh .                 compiled in a container
#
#   docker run -d --name mesh --init --restart unless-stopped --stop-timeout 120 \
#     -v /var/run/docker.sock:/var/run/docker.sock -v mesh-data:/var/lib/mesh \
#     -p 2222:2222 -p 80:80 mesh/mesh serve --domain apps.example.com --http-addr :80
#
# Build it with BuildKit (DOCKER_BUILDKIT=1 for engines before 23), which builds only
# the stage that BINARY names.
ARG BINARY=build

FROM golang:1.26 AS build
WORKDIR /src
COPY . .
ARG VERSION=unknown
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /mesh ./cmd/mesh

FROM scratch AS prebuilt
COPY bin/mesh /mesh

FROM ${BINARY} AS binary

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git openssh-client \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf /var/log/* /usr/share/doc /usr/share/man
COPY --from=binary /mesh /usr/local/bin/mesh
ENV MESH_DATA=/var/lib/mesh
EXPOSE 2222 8080
# There is no USER: anyone who can use the engine's socket is root on the host anyway,
# and another user could open it only with the group number that it happens to have
# there. There is no VOLUME either: a data directory that nobody has named should be
# lost in the first test, not survive as an unnamed volume.
ENTRYPOINT ["mesh"]
CMD ["serve"]
