# The same file system as that of "make image", for those who have a Docker engine.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
COPY test/release/go.mod test/release/go.sum test/release/
RUN go mod download && cd test/release && go mod download
COPY . .
ARG VERSION=unknown
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags disable_grpc_modules \
    -ldflags "-s -w -X github.com/flotilla-fleet/flotilla/internal/cli.version=${VERSION}" \
    -o /flotilla ./cmd/flotilla
RUN cd test/release && go run . rootfs -program /flotilla -out /rootfs

FROM scratch
COPY --from=build /rootfs/ /
ENV PATH=/usr/local/bin HOME=/tmp
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/flotilla"]
