// Package httpclient makes HTTP clients for servers that may have a certificate of a private authority.
// It never turns verification off.
package httpclient

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Client hands out an http.Client that trusts the system's authorities and those of a file.
// It is safe for concurrent use.
type Client struct {
	file string

	mu     sync.Mutex
	ca     string // what the file held when client was made
	client *http.Client
}

// New returns a Client for a file with certificates in PEM form; "" means the system's only.
// The file is not read yet.
func New(caFile string) *Client { return &Client{file: caFile} }

// Get returns the client. It is the same one, with its open connections, until the file changes.
func (c *Client) Get() (*http.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ca := ""
	if c.file != "" {
		data, err := os.ReadFile(c.file)
		if err != nil {
			return nil, err
		}
		ca = string(data)
	}
	if c.client != nil && ca == c.ca {
		return c.client, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" || c.file != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM([]byte(ca)) {
			return nil, errors.New("holds no certificate in PEM form")
		}
		config.RootCAs = pool
	}
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	c.ca = ca
	c.client = &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		TLSClientConfig:       config,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   2,
		IdleConnTimeout:       90 * time.Second,
	}}
	return c.client, nil
}

// Close closes connections that nobody uses.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
}

// CertificateProblem reports whether an error means that a server's certificate is not trusted,
// which no retry mends.
func CertificateProblem(err error) bool {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &unknown) || errors.As(err, &name) || errors.As(err, &invalid)
}
