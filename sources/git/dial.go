package git

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/proxy"

	"github.com/flotilla-fleet/flotilla/internal/httpclient"
)

const (
	dialTimeout = 10 * time.Second
	// maxProxyAnswer bounds what a proxy may say before the connection is through.
	maxProxyAnswer = 16 << 10
)

// dialVia connects to addr (host:port), through a proxy where there is one. The proxy resolves the name.
func dialVia(ctx context.Context, via, addr string) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	if via == "" {
		return dialer.DialContext(ctx, "tcp", addr)
	}
	u, err := httpclient.ParseProxy(via)
	if err != nil {
		return nil, err
	}
	port := u.Port()
	if u.Scheme == "socks5" || u.Scheme == "socks5h" {
		return dialSOCKS(ctx, dialer, u, addr)
	}
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if u.Scheme == "https" {
		secure := tls.Client(conn, &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.Hostname()})
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("proxy: %w", err), conn.Close())
		}
		conn = secure
	}
	if err := connect(ctx, conn, u, addr); err != nil {
		return nil, errors.Join(fmt.Errorf("proxy %s: %w", u.Host, err), conn.Close())
	}
	return conn, nil
}

func dialSOCKS(ctx context.Context, dialer *net.Dialer, u *url.URL, addr string) (net.Conn, error) {
	var auth *proxy.Auth
	if u.User != nil {
		password, _ := u.User.Password()
		auth = &proxy.Auth{User: u.User.Username(), Password: password}
	}
	port := u.Port()
	if port == "" {
		port = "1080"
	}
	d, err := proxy.SOCKS5("tcp", net.JoinHostPort(u.Hostname(), port), auth, dialer)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	through, ok := d.(proxy.ContextDialer)
	if !ok {
		return nil, errors.New("proxy: the dialer cannot be ended")
	}
	conn, err := through.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	return conn, nil
}

// connect asks an HTTP proxy for a connection. It reads no byte of what comes after the proxy's answer.
func connect(ctx context.Context, conn net.Conn, u *url.URL, addr string) error {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: http.Header{}}
	if u.User != nil {
		password, _ := u.User.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)))
	}
	if err := req.WithContext(ctx).Write(conn); err != nil {
		return err
	}
	var head []byte
	for one := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); {
		if len(head) >= maxProxyAnswer {
			return errors.New("its answer has no end")
		}
		if _, err := conn.Read(one); err != nil {
			return err
		}
		head = append(head, one[0])
	}
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), req)
	if err != nil {
		return errors.New("its answer is not HTTP")
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("refuses to connect to %s: HTTP status %d", addr, res.StatusCode)
	}
	return nil
}
