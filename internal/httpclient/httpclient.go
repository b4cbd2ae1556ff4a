// Package httpclient makes HTTP clients for servers of private authorities: what they trust, what they show, and which
// way they go. It never turns verification off, and reads its files anew, so that what is rotated is used at once.
package httpclient

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/flotilla-fleet/flotilla/internal/redact"
)

// Config says what a client trusts, shows and goes through. The zero value is a client with the system's authorities.
type Config struct {
	// CAFile holds certificates in PEM form that are trusted besides the system's.
	CAFile string
	// CertFile and KeyFile are the client's own certificate and its key in PEM form; both or none.
	CertFile, KeyFile string
	// Proxy is the address of an http, https, socks5 or socks5h proxy. Empty means what the environment says.
	Proxy string
}

// FileError says which of the files cannot be used. Its text holds nothing of their content.
type FileError struct {
	// What the file is, for people.
	What string
	File string
	Err  error
}

// Error reads "CA file \"ca.pem\": cause".
func (e *FileError) Error() string { return fmt.Sprintf("%s %q: %v", e.What, e.File, e.Err) }

// Unwrap returns the cause.
func (e *FileError) Unwrap() error { return e.Err }

// Client hands out an http.Client. It is safe for concurrent use.
type Client struct {
	mu     sync.Mutex
	made   material // what client was made of
	client *http.Client
}

// material is what a client is made of: the files' content.
type material struct{ ca, cert, key, proxy string }

// New returns a Client. No file is read yet.
func New() *Client { return &Client{} }

// Get returns the client of a configuration. It is the same one, with its open connections,
// until the configuration or the content of its files changes.
func (c *Client) Get(config Config) (*http.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := material{proxy: config.Proxy}
	for _, f := range []struct {
		what, file string
		into       *string
	}{{"CA file", config.CAFile, &m.ca}, {"client certificate", config.CertFile, &m.cert}, {"client key", config.KeyFile, &m.key}} {
		if f.file == "" {
			continue
		}
		data, err := os.ReadFile(f.file)
		if err != nil {
			if p, ok := errors.AsType[*os.PathError](err); ok {
				err = p.Err
			}
			return nil, &FileError{f.what, f.file, err}
		}
		*f.into = string(data)
	}
	if c.client != nil && m == c.made {
		return c.client, nil
	}
	made, err := build(config, m)
	if err != nil {
		return nil, err
	}
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
	c.made, c.client = m, made
	return made, nil
}

func build(config Config, m material) (*http.Client, error) {
	secure := &tls.Config{MinVersion: tls.VersionTLS12}
	if config.CAFile != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM([]byte(m.ca)) {
			return nil, &FileError{"CA file", config.CAFile, errors.New("holds no certificate in PEM form")}
		}
		secure.RootCAs = pool
	}
	switch {
	case config.CertFile != "" && config.KeyFile != "":
		pair, err := tls.X509KeyPair([]byte(m.cert), []byte(m.key))
		if err != nil {
			return nil, &FileError{"client certificate", config.CertFile, fmt.Errorf("with the key in %q: %w", config.KeyFile, err)}
		}
		secure.Certificates = []tls.Certificate{pair}
	case config.CertFile != "":
		return nil, &FileError{"client certificate", config.CertFile, errors.New("has no key: both are needed")}
	case config.KeyFile != "":
		return nil, &FileError{"client key", config.KeyFile, errors.New("has no certificate: both are needed")}
	}
	proxy := http.ProxyFromEnvironment
	if config.Proxy != "" {
		u, err := ParseProxy(config.Proxy)
		if err != nil {
			return nil, err
		}
		proxy = http.ProxyURL(u)
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Client{Transport: &http.Transport{
		Proxy:                 proxy,
		DialContext:           dialer.DialContext,
		TLSClientConfig:       secure,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   2,
		IdleConnTimeout:       90 * time.Second,
	}}, nil
}

// ParseProxy reads the address of a proxy. Its errors hold neither user nor password.
func ParseProxy(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("proxy %q is not an address", redact.URL(raw))
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
	default:
		return nil, fmt.Errorf("proxy %q: the scheme is not one of http, https, socks5, socks5h", redact.URL(raw))
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("proxy %q has no host", redact.URL(raw))
	}
	return u, nil
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

// Alert reports whether the server itself ended the TLS connection, such as for want of a client certificate.
func Alert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}
