package chart

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// credentials are logins by host, with the port where it is not the usual one.
type credentials map[string]login

type login struct{ username, password string }

func (c credentials) secrets() []string {
	var out []string
	for _, l := range c {
		out = append(out, l.password)
	}
	return out
}

// dockerHub is what Docker calls its registry in config.json.
const (
	dockerHub         = "index.docker.io"
	dockerHubRegistry = "registry-1.docker.io"
)

// parseCredentials reads the auths of Docker's config.json,
// which is also what a Secret of type kubernetes.io/dockerconfigjson holds.
// No error repeats what the file holds.
func parseCredentials(data []byte) (credentials, error) {
	var file struct {
		Auths map[string]struct {
			Auth     string `json:"auth"`
			Username string `json:"username"`
			Password string `json:"password"`
		} `json:"auths"`
	}
	if json.Unmarshal(data, &file) != nil {
		return nil, errors.New(`is not JSON as in {"auths": {"registry.example.com": {"username": "…", "password": "…"}}}`)
	}
	out := credentials{}
	for address, a := range file.Auths {
		host := address
		if u, err := url.Parse(address); err == nil && u.Host != "" {
			host = u.Host
		}
		host, _, _ = strings.Cut(host, "/")
		l := login{a.Username, a.Password}
		if a.Auth != "" {
			plain, err := base64.StdEncoding.DecodeString(a.Auth)
			user, password, ok := strings.Cut(string(plain), ":")
			if err != nil || !ok {
				return nil, fmt.Errorf("auths of %q: auth is not the base64 form of username:password", host)
			}
			l = login{user, password}
		}
		if l == (login{}) {
			return nil, fmt.Errorf("auths of %q: has neither auth nor username and password; credential helpers are not supported", host)
		}
		if host == dockerHub || host == "docker.io" {
			host = dockerHubRegistry
		}
		out[host] = l
	}
	return out, nil
}
