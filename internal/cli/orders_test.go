package cli_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/view"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
)

// Orders reach the agent from the cluster and by the hub, and what concerns the whole cluster is told everywhere.
func TestOrdersAndErrors(t *testing.T) {
	r := newRig(t)
	failed := func(want bool) func() error {
		return func() error {
			var got struct{ Bundles []api.BundleStatus }
			if err := r.tryJSON(&got, r.on("status")...); err != nil {
				return err
			}
			for _, b := range got.Bundles {
				if b.Name == "app" && (b.Phase == api.PhaseFailed) != want {
					return fmt.Errorf("%s: %s", b.Phase, b.Message)
				}
			}
			return nil
		}
	}
	// Nobody tells the agent that a quota is gone: by itself it tries again in five minutes.
	quotas := r.kube.CoreV1().ResourceQuotas("app")
	for how, args := range map[string][]string{
		"on-cluster": r.on("sync", "--bundle", "app"), "by-hub": {"sync", "--cluster", "one"},
	} {
		t.Run("sync "+how, func(t *testing.T) {
			quota := &corev1.ResourceQuota{
				ObjectMeta: metav1.ObjectMeta{Name: how},
				Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/configmaps": resource.MustParse("0")}},
			}
			if _, err := quotas.Create(t.Context(), quota, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			counts := func(want bool) func() error {
				return func() error {
					try := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "try-"}}
					_, err := r.kube.CoreV1().ConfigMaps("app").Create(t.Context(), try, metav1.CreateOptions{DryRun: []string{"All"}})
					if apierrors.IsForbidden(err) != want {
						return fmt.Errorf("not yet (%v)", err)
					}
					return nil
				}
			}
			r.eventually("the quota counts", counts(true))
			r.repo.Commit(map[string]string{"app/" + how + ".yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + how + "}\n"})
			r.eventually("the bundle has failed", failed(true))
			if err := quotas.Delete(t.Context(), how, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			r.eventually("the quota is gone", counts(false))
			if _, _, talk := r.flotilla("", args...); !strings.Contains(talk, "sync ordered") {
				t.Fatal(talk)
			}
			r.eventually("it has been tried again", failed(false))
		})
	}

	t.Run("suspend and resume by the hub", func(t *testing.T) {
		code, body := r.hub.Do(http.MethodPost, "/api/v1/clusters/one/suspend", `{"scope": {"bundles": ["app"]}, "reason": "INC-9", "for": "10m"}`)
		if code != http.StatusOK || !strings.Contains(string(body), `"done"`) {
			t.Fatalf("%d: %s", code, body)
		}
		r.eventually("the cluster tells it", func() error {
			out, err := r.try(r.on("status")...)
			if err == nil && !strings.Contains(out, "INC-9") {
				err = fmt.Errorf("it says\n%s", out)
			}
			return err
		})
		code, body = r.hub.Do(http.MethodPost, "/api/v1/clusters/one/resume", `{"name": ""}`)
		if code != http.StatusOK || !strings.Contains(string(body), `"done"`) {
			t.Fatalf("%d: %s", code, body)
		}
		r.eventually("it is over", func() error {
			out, err := r.try(r.on("status")...)
			if err == nil && strings.Contains(out, "INC-9") {
				err = fmt.Errorf("it holds:\n%s", out)
			}
			return err
		})
		// What the cluster refuses is the answer, too.
		if code, body = r.hub.Do(http.MethodPost, "/api/v1/clusters/one/suspend", `{"scope": {"all": true}, "reason": "INC-9", "for": "1000h"}`); code < 400 {
			t.Errorf("a suspension of six weeks: %d: %s", code, body)
		}
	})

	for name, tt := range map[string]struct {
		files map[string]string
		file  string
		line  int
		field string
	}{
		"fleet.yaml":  {map[string]string{"fleet.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec:\n  guard: {}\n"}, "fleet.yaml", 4, "spec.guard"},
		"two bundles": {map[string]string{"other/bundle.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata:\n  name: app\n"}, "other/bundle.yaml", 4, "metadata.name"},
		"a cycle": {map[string]string{
			"x/bundle.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: x}\nspec:\n  dependsOn: [y]\n", "x/x.yaml": "{}",
			"y/bundle.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: y}\nspec:\n  dependsOn: [x]\n", "y/y.yaml": "{}",
		}, "x/bundle.yaml", 5, "spec.dependsOn"},
	} {
		t.Run("what concerns all: "+name, func(t *testing.T) {
			r.repo.Commit(tt.files)
			where := fmt.Sprintf("%s:%d: %s", tt.file, tt.line, tt.field)
			r.eventually("the hub tells it", func() error {
				_, body := r.hub.Do(http.MethodGet, "/api/v1/clusters/one", "")
				var c view.ClusterDetail
				if err := json.Unmarshal(body, &c); err != nil {
					return err
				}
				if e := c.Error; c.State != view.StateFailed || e == nil || e.File != tt.file || e.Line != tt.line || e.Field != tt.field {
					return fmt.Errorf("%s: %+v", c.State, e)
				}
				return nil
			})
			if _, page := r.hub.Do(http.MethodGet, "/c/one", ""); !strings.Contains(string(page), tt.file) {
				t.Error("the page does not tell it")
			}
			r.eventually("status tells it", func() error {
				out, err := r.try(r.on("status")...)
				if err == nil && !strings.Contains(out, where) {
					err = fmt.Errorf("it says\n%s", out)
				}
				return err
			})
			r.eventually("an Event tells it", func() error {
				list, err := r.kube.CoreV1().Events("").List(t.Context(), metav1.ListOptions{})
				if err != nil {
					return err
				}
				for _, e := range list.Items {
					if e.Type == corev1.EventTypeWarning && strings.Contains(e.Message, where) {
						return nil
					}
				}
				return fmt.Errorf("none of %d Events does", len(list.Items))
			})
			undo := gitserver.Commit{}
			for f := range tt.files {
				undo.Delete = append(undo.Delete, f)
			}
			r.repo.Do(undo)
			r.eventually("it is over", func() error {
				_, body := r.hub.Do(http.MethodGet, "/api/v1/clusters/one", "")
				var c view.ClusterDetail
				if err := json.Unmarshal(body, &c); err != nil || c.Error != nil {
					return fmt.Errorf("%+v, %v", c.Error, err)
				}
				return nil
			})
		})
	}
}
