package cli

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
	"net/url"
	"os"
	gopath "path"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/view"
)

// hubFlags choose a hub. Without one, a command asks the cluster itself.
type hubFlags struct{ url, tokenFile, caFile string }

func (h *hubFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&h.url, "hub", os.Getenv("FLOTILLA_HUB"), "address of the hub, to ask about the whole fleet (default: $FLOTILLA_HUB)")
	cmd.Flags().StringVar(&h.tokenFile, "hub-token-file", "", "file with the hub's bearer token (default: $FLOTILLA_TOKEN holds the token)")
	cmd.Flags().StringVar(&h.caFile, "hub-ca-file", os.Getenv("FLOTILLA_HUB_CA_FILE"), "file with the certificates in PEM that the hub's own must come from, instead of the system's (default: $FLOTILLA_HUB_CA_FILE)")
}

// client returns nil when no hub is chosen.
func (h hubFlags) client() (*hubClient, error) {
	if h.url == "" {
		return nil, nil //nolint:nilnil // no hub is a choice, not an error
	}
	base, err := url.Parse(strings.TrimSuffix(h.url, "/"))
	if err != nil || base.Scheme == "" || base.Host == "" {
		return nil, usageError{fmt.Errorf("--hub %q is not an address such as https://hub.example.com", h.url)}
	}
	token := os.Getenv("FLOTILLA_TOKEN")
	if h.tokenFile != "" {
		b, err := os.ReadFile(h.tokenFile)
		if err != nil {
			return nil, err
		}
		token = strings.TrimSpace(string(b))
	}
	if token == "" {
		return nil, usageError{fmt.Errorf("the hub needs a token: give --hub-token-file or set FLOTILLA_TOKEN")}
	}
	hc := &http.Client{Timeout: 30 * time.Second}
	if h.caFile != "" {
		if hc.Transport, err = trusting(h.caFile); err != nil {
			return nil, err
		}
	}
	return &hubClient{base: base, token: token, http: hc}, nil
}

// trusting is a transport for servers whose certificates come from those in a file.
func trusting(file string) (http.RoundTripper, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, usageError{fmt.Errorf("--hub-ca-file: %w", err)}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(b) {
		return nil, usageError{fmt.Errorf("--hub-ca-file %s holds no certificate in PEM", file)}
	}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
	}, nil
}

// hubClient asks the hub's JSON API.
type hubClient struct {
	base  *url.URL
	token string
	http  *http.Client
}

// maxAnswer bounds what one answer may hold.
const maxAnswer = 64 << 20

func (c *hubClient) do(ctx context.Context, method, path string, query url.Values, body, into any) error {
	// What a name cannot have is escaped, and what stands for a directory is cleaned away: neither is a place of the hub's.
	if gopath.Clean(path) != path || strings.Contains(path, "%") {
		return usageError{fmt.Errorf("%q cannot be asked for: a name on the command line has a slash or another character that no name has", path)}
	}
	u := *c.base
	u.Path += path
	u.RawQuery = query.Encode()
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), payload)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return &api.Error{
			Kind: api.Transient, Reason: "HubUnreachable", Err: fmt.Errorf("ask the hub: %w", err), Hint: unreachable(err),
		}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return &api.Error{Kind: api.Transient, Reason: "HubUnreachable", Err: fmt.Errorf("read the hub's answer: %w", err)}
	}
	if len(b) > maxAnswer {
		return fmt.Errorf("the hub's answer to %s is larger than %d bytes", path, maxAnswer)
	}
	if res.StatusCode >= 300 {
		return hubError(res.StatusCode, b)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("read the hub's answer: %w", err)
	}
	return nil
}

// unreachable says what to do about a hub that cannot be asked.
func unreachable(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "if the hub's certificate comes from an authority of your own, name its file with --hub-ca-file"
	}
	return "commands about one cluster work without the hub: leave --hub out and give --kubeconfig"
}

// clusters asks for all clusters that a query selects, page by page.
// They are asked for by name, for a cluster whose state changes meanwhile moves in every other order;
// the list that is returned has the order that the query wants.
func (c *hubClient) clusters(ctx context.Context, q view.Query) (view.List[view.Cluster], error) {
	query := url.Values{"sort": {"name"}, "size": {strconv.Itoa(view.MaxPageSize)}, "q": {q.Text}}
	for _, s := range q.States {
		query.Add("state", string(s))
	}
	all := view.List[view.Cluster]{Items: []view.Cluster{}, Page: 1, Pages: 1}
	known := map[string]bool{}
	for page := 1; ; page++ {
		query.Set("page", strconv.Itoa(page))
		var list view.List[view.Cluster]
		if err := c.do(ctx, http.MethodGet, "/api/v1/clusters", query, nil, &list); err != nil {
			return all, err
		}
		for _, cluster := range list.Items {
			if !known[cluster.Name] { // one that joined meanwhile has moved the others
				known[cluster.Name] = true
				all.Items = append(all.Items, cluster)
			}
		}
		all.Fleet = list.Fleet
		if page >= list.Pages {
			break
		}
	}
	all.Items = q.Select(all.Items)
	all.Total = len(all.Items)
	return all, nil
}

// cluster is one cluster as the hub knows it, with the bundles of all pages.
func (c *hubClient) cluster(ctx context.Context, name string) (view.ClusterDetail, error) {
	var all view.ClusterDetail
	for page := 1; ; page++ {
		var d view.ClusterDetail
		query := url.Values{"page": {strconv.Itoa(page)}}
		if err := c.do(ctx, http.MethodGet, "/api/v1/clusters/"+url.PathEscape(name), query, nil, &d); err != nil {
			return all, err
		}
		d.BundleStatus = append(all.BundleStatus, d.BundleStatus...)
		if all = d; page >= d.Pages {
			all.Page, all.Pages, all.Next = 1, 1, ""
			return all, nil
		}
	}
}

// hubError turns a refusal into the error that the hub meant.
func hubError(status int, body []byte) error {
	var said struct {
		Error api.StatusError `json:"error"`
	}
	kind := api.Internal
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		kind = api.Forbidden
	case http.StatusNotFound, http.StatusUnprocessableEntity, http.StatusBadRequest:
		kind = api.Stalled
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		kind = api.Waiting
	}
	message := strings.TrimSpace(string(body))
	if json.Unmarshal(body, &said) == nil && said.Error.Message != "" {
		message = said.Error.Message
		if said.Error.Kind != "" {
			kind = said.Error.Kind
		}
	}
	return &api.Error{Kind: kind, Reason: said.Error.Reason, Err: fmt.Errorf("the hub says: %s (%d)", message, status)}
}
