package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

// The Secret flotilla-system/flotilla-agent-identity holds the agent's identity at the hub, which so outlives the agent's disk.
// The installer makes it, empty. Where there is none, nothing is kept.
const (
	identityName = "flotilla-agent-identity"
	identityKey  = "identity.pem"
	// identityManager is the field manager of what the agent keeps there: the installer's own does not take it back.
	identityManager = "flotilla-agent"
)

func identityPlace() (kube.Place, error) {
	return kube.PlaceOf(api.ObjectRef{Version: "v1", Kind: "Secret", Namespace: api.SystemNamespace, Name: identityName}, "secrets")
}

// identitySecret is a Secret, as far as it matters here.
type identitySecret struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   map[string]any    `json:"metadata"`
	Data       map[string][]byte `json:"data"`
}

// Identity returns the identity that is kept; nil if there is none.
func (c *Client) Identity(ctx context.Context) ([]byte, error) {
	s, _, err := c.readIdentity(ctx)
	return s.Data[identityKey], err
}

func (c *Client) readIdentity(ctx context.Context) (s identitySecret, found bool, err error) {
	at, err := identityPlace()
	if err != nil {
		return s, false, err
	}
	raw, err := c.server.Own.Read(ctx, at)
	if apierrors.IsNotFound(err) {
		return s, false, nil
	}
	if err != nil {
		return s, false, kube.Classify(at.Ref, "", err)
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return identitySecret{}, true, fmt.Errorf("%s cannot be read", at.Ref) // the cause may quote it
	}
	return s, true, nil
}

// KeepIdentity keeps an identity. It does nothing where the Secret is missing or holds it already.
func (c *Client) KeepIdentity(ctx context.Context, identity []byte) error {
	old, found, err := c.readIdentity(ctx)
	if err != nil || !found || bytes.Equal(old.Data[identityKey], identity) {
		return err
	}
	at, err := identityPlace()
	if err != nil {
		return err
	}
	body, err := json.Marshal(identitySecret{
		APIVersion: "v1", Kind: "Secret", Metadata: map[string]any{"name": identityName, "namespace": api.SystemNamespace},
		Data: map[string][]byte{identityKey: identity},
	})
	if err != nil {
		return err
	}
	if _, err := c.server.Own.Apply(ctx, at, body, kube.Mode{Manager: identityManager}); err != nil {
		return fmt.Errorf("%s cannot be written: %s", at.Ref, apierrors.ReasonForError(err)) // an admission's words may quote it
	}
	return nil
}
