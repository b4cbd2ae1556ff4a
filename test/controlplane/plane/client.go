package plane

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// A client asks the API server the few questions of a start-up.
type client struct {
	url  string
	http *http.Client
}

func (c *Config) newClient(p ports) (*client, error) {
	cert, err := tls.LoadX509KeyPair(c.path("pki", "admin.crt"), c.path("pki", "admin.key"))
	if err != nil {
		return nil, fmt.Errorf("load the administrator's certificate: %w", err)
	}
	ca, err := os.ReadFile(c.path("pki", "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("load the CA: no certificate found")
	}
	return &client{
		url: c.serverURL(p),
		http: &http.Client{
			Timeout: 5 * time.Second,
			Transport: &http.Transport{
				TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS13},
			},
		},
	}, nil
}

func (c *client) do(ctx context.Context, method, url string, body, into any) (int, error) {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return 0, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(data))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	if res.StatusCode >= 300 {
		return res.StatusCode, fmt.Errorf("%s %s: %s: %.300s", method, url, res.Status, answer)
	}
	if into != nil {
		err = json.Unmarshal(answer, into)
	}
	return res.StatusCode, err
}

// wait asks until the answer is nil.
func wait(ctx context.Context, what string, ask func() error) error {
	const pause = 50 * time.Millisecond
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if sleep(ctx, pause); ctx.Err() != nil {
			return fmt.Errorf("wait for %s: %w: last answer: %w", what, context.Cause(ctx), err)
		}
	}
}

func (c *client) waitEtcd(ctx context.Context, port int) error {
	url := fmt.Sprintf("http://127.0.0.1:%d/health", port)
	return wait(ctx, "etcd", func() error {
		_, err := c.do(ctx, http.MethodGet, url, nil, nil)
		return err
	})
}

func (c *client) waitReady(ctx context.Context) error {
	return wait(ctx, "the API server", func() error {
		_, err := c.do(ctx, http.MethodGet, c.url+"/readyz", nil, nil)
		return err
	})
}

func (c *client) waitServiceAccount(ctx context.Context) error {
	return wait(ctx, "the default service account", func() error {
		_, err := c.do(ctx, http.MethodGet, c.url+"/api/v1/namespaces/default/serviceaccounts/default", nil, nil)
		return err
	})
}

// A node is the part of a Node that matters here.
type node struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name        string            `json:"name"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		Taints []struct {
			Key    string `json:"key"`
			Effect string `json:"effect"`
		} `json:"taints,omitempty"`
	} `json:"spec"`
	Status struct {
		Conditions []struct {
			Type   string `json:"type"`
			Status string `json:"status"`
		} `json:"conditions,omitempty"`
	} `json:"status"`
}

func (c *client) createNodes(ctx context.Context, count int) error {
	for i := range count {
		n := node{APIVersion: "v1", Kind: "Node"}
		n.Metadata.Name = fmt.Sprintf("node-%d", i+1)
		n.Metadata.Annotations = map[string]string{nodeAnnotation: "fake"}
		n.Metadata.Labels = map[string]string{
			"kubernetes.io/hostname": n.Metadata.Name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
			"topology.kubernetes.io/zone": fmt.Sprintf("zone-%d", i%3+1),
		}
		if code, err := c.do(ctx, http.MethodPost, c.url+"/api/v1/nodes", n, nil); err != nil && code != http.StatusConflict {
			return fmt.Errorf("create node %q: %w", n.Metadata.Name, err)
		}
	}
	return nil
}

// waitNodes waits until pods can be scheduled on all nodes.
func (c *client) waitNodes(ctx context.Context, count int) error {
	return wait(ctx, "the nodes", func() error {
		var list struct {
			Items []node `json:"items"`
		}
		if _, err := c.do(ctx, http.MethodGet, c.url+"/api/v1/nodes", nil, &list); err != nil {
			return err
		}
		ready := 0
		for i := range list.Items {
			if list.Items[i].schedulable() {
				ready++
			}
		}
		if ready < count {
			return fmt.Errorf("%d of %d nodes are ready", ready, count)
		}
		return nil
	})
}

func (n *node) schedulable() bool {
	for _, c := range n.Status.Conditions {
		if c.Type == "Ready" && c.Status == "True" {
			return len(n.Spec.Taints) == 0
		}
	}
	return false
}
