FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN CGO_ENABLED=0 go build -trimpath -tags disable_grpc_modules \
    -ldflags "-s -w -X github.com/flotilla-fleet/flotilla/internal/cli.version=${VERSION}" \
    -o /flotilla ./cmd/flotilla

FROM gcr.io/distroless/static:nonroot
COPY --from=build /flotilla /usr/local/bin/flotilla
USER nonroot:nonroot
ENTRYPOINT ["/usr/local/bin/flotilla"]
