package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
)

// hubFlags choose a hub. Without one, a command asks the cluster itself.
type hubFlags struct{ url, tokenFile string }

func (h *hubFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&h.url, "hub", os.Getenv("FLOTILLA_HUB"), "address of the hub, to ask about the whole fleet (default: $FLOTILLA_HUB)")
	cmd.Flags().StringVar(&h.tokenFile, "hub-token-file", "", "file with the hub's bearer token (default: $FLOTILLA_TOKEN holds the token)")
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
	return &hubClient{base: base, token: token, http: &http.Client{Timeout: 30 * time.Second}}, nil
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
			Kind: api.Transient, Reason: "HubUnreachable", Err: fmt.Errorf("ask the hub: %w", err),
			Hint: "commands about one cluster work without the hub: leave --hub out and give --kubeconfig",
		}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return &api.Error{Kind: api.Transient, Reason: "HubUnreachable", Err: fmt.Errorf("read the hub's answer: %w", err)}
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
