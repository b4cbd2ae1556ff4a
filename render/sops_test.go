package render_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/sops"
	"github.com/flotilla-fleet/flotilla/render/sops/sopstest"
)

const password = "tr0ub4dor-and-3"

const secretYAML = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\n  namespace: x\nstringData:\n  password: " + password + "\n"

// key makes an age identity and its keyring.
func key(t *testing.T) (keys *sops.Keyring, recipient string) {
	t.Helper()
	identity, recipient, err := sopstest.Key()
	if err != nil {
		t.Fatal(err)
	}
	if keys, err = sops.Open(sops.Config{Identities: []string{identity}}); err != nil {
		t.Fatal(err)
	}
	return keys, recipient
}

func encrypt(t *testing.T, to, name, pattern, plain string) string {
	t.Helper()
	out, err := sopstest.Encrypt(to, name, pattern, []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), password) {
		t.Fatal("the test's file is not encrypted")
	}
	return string(out)
}

func secretValue(t *testing.T, b api.RenderedBundle, name, field string) string {
	t.Helper()
	if b.Err != nil {
		t.Fatal(b.Err)
	}
	for _, o := range b.Objects {
		if o.GetKind() == "Secret" && strings.HasPrefix(o.GetName(), name) {
			data, _ := o.Object["data"].(map[string]any)
			text, _ := data[field].(string)
			plain, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			return string(plain)
		}
	}
	t.Fatalf("there is no Secret %s in %v", name, refs(b))
	return ""
}

func TestSOPS_decrypts(t *testing.T) {
	keys, to := key(t)
	second := strings.Replace(secretYAML, "name: s", "name: s2", 1)
	enc := encrypt(t, to, "s.yaml", "^(data|stringData)$", secretYAML)
	for _, tt := range []struct {
		name, dir string
		files     []string
		secret    string
	}{
		{"plain YAML", "a", []string{"a/s.yaml", enc}, "s"},
		{"every value", "a", []string{"a/s.yaml", encrypt(t, to, "s.yaml", "^(password)$", secretYAML)}, "s"},
		{"yml", "a", []string{"a/s.yml", enc}, "s"},
		{"several documents encrypted as one", "a", []string{"a/s.yaml", encrypt(t, to, "s.yaml", "^(data|stringData)$", secretYAML+"---\n"+second)}, "s2"},
		{"several documents encrypted one by one", "a", []string{"a/s.yaml", enc + "---\n" + encrypt(t, to, "s.yaml", "^(data|stringData)$", second)}, "s2"},
		{"beside plain documents", "a", []string{"a/s.yaml", configMap("y", "sops: x") + "---\n" + enc}, "s"},
		{"resource of a kustomization", "a", []string{"a/kustomization.yaml", "resources: [s.yaml]\n", "a/s.yaml", enc}, "s"},
		{
			"env file of a generator", "a",
			[]string{"a/kustomization.yaml", "namespace: x\nsecretGenerator: [{name: g, envs: [g.env]}]\n", "a/g.env", encrypt(t, to, "g.env", "", "password="+password+"\n")},
			"g",
		},
		{
			"binary file of a generator", "a",
			[]string{"a/kustomization.yaml", "namespace: x\nsecretGenerator: [{name: g, files: [password=g.txt]}]\n", "a/g.txt", encrypt(t, to, "g.txt", "", password)},
			"g",
		},
		{
			"values of a chart", "h",
			[]string{
				"h/bundle.yaml", bundleYAML("h", "{helm: {chart: ./c, valuesFiles: [v.yaml]}}"), "h/v.yaml", encrypt(t, to, "v.yaml", "", "db:\n  password: "+password+"\n"),
				"h/c/Chart.yaml", "{apiVersion: v2, name: c, version: 1.0.0}",
				"h/c/templates/s.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: {{ .Values.db.password | quote }} }\n",
			},
			"s",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := fleet().With(tt.files...)
			b := bundle(t, mustRender(t, newRenderer(t, render.Config{Keys: keys}), files.Snapshot(), "one"), tt.dir)
			if got := secretValue(t, b, tt.secret, "password"); got != password {
				t.Errorf("got %q", got)
			}
			for _, o := range b.Objects {
				if _, left := o.Object["sops"]; left {
					t.Errorf("%s has sops metadata", o.GetName())
				}
			}
		})
	}
}

func TestSOPS_errors(t *testing.T) {
	keys, to := key(t)
	others, otherTo := key(t)
	enc := encrypt(t, to, "s.yaml", "^(data|stringData)$", secretYAML)
	several := encrypt(t, to, "s.yaml", "^(data|stringData)$", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: first\n---\n"+secretYAML)
	const name = "a/s.yaml"
	for _, tt := range []struct {
		test string
		keys *sops.Keyring
		file string
		want api.Error
		text string
	}{
		{"no keys at all", nil, enc, api.Error{Reason: "NoKey", File: name, Line: 1, Field: "stringData.password"}, "encrypted with sops for " + to + ", and there is no age key"},
		{"another key", others, enc, api.Error{Reason: "NoKey", File: name, Line: 1, Field: "stringData.password"}, "encrypted with sops for " + to + ", and none of the 1 age keys"},
		{"another recipient", keys, encrypt(t, otherTo, "s.yaml", "", secretYAML), api.Error{Reason: "NoKey", File: name, Line: 1, Field: "apiVersion"}, otherTo},
		{
			"beside a plain document", nil, configMap("y", "sops: x") + "---\n" + enc,
			api.Error{Reason: "NoKey", File: name, Line: 6, Field: "stringData.password"},
			"there is no age key",
		},
		{
			"several documents encrypted as one", nil, several,
			api.Error{Reason: "NoKey", File: name, Line: 1 + strings.Count(several[:strings.LastIndex(several, "apiVersion:")], "\n"), Field: "stringData.password"},
			"there is no age key",
		},
		{"changed since", keys, strings.Replace(enc, "name: s", "name: t", 1), api.Error{Reason: "NotDecrypted", File: name, Line: 21, Field: "sops.mac"}, "MAC does not match"},
		{
			"value damaged", keys, strings.Replace(enc, "password: ENC[AES256_GCM,data:", "password: ENC[AES256_GCM,data:AAAA", 1),
			api.Error{Reason: "NotDecrypted", File: name, Line: 7, Field: "stringData.password"},
			"changed after it was encrypted",
		},
		{
			"value damaged beside a plain document", keys, configMap("y", "sops: x") + "---\n" + strings.Replace(enc, "password: ENC[", "password: ENX[", 1),
			api.Error{Reason: "NotDecrypted", File: name, Line: 12, Field: "stringData.password"},
			"changed after it was encrypted",
		},
		{
			"changed since, beside a plain document", keys, configMap("y", "sops: x") + "---\n" + strings.Replace(enc, "name: s", "name: t", 1),
			api.Error{Reason: "NotDecrypted", File: name, Line: 26, Field: "sops.mac"},
			"MAC does not match",
		},
		{
			"changed since, several documents encrypted as one", keys, strings.Replace(several, "name: first", "name: fourth", 1),
			api.Error{Reason: "NotDecrypted", File: name, Line: 1, Field: "sops.mac"},
			"MAC does not match",
		},
		{
			"data key damaged", keys, strings.Replace(enc, "BEGIN AGE", "BEGAN AGE", 1),
			api.Error{Reason: "NoKey", File: name, Line: 1, Field: "stringData.password"},
			"encrypted with sops",
		},
		{"value moved", keys, strings.Replace(enc, "password: ENC", "passwort: ENC", 1), api.Error{Reason: "NotDecrypted", File: name, Line: 7, Field: "stringData.passwort"}, "changed after it was encrypted"},
		{
			"metadata lost", keys, enc[:strings.Index(enc, "sops:")],
			api.Error{Reason: "StillEncrypted", File: name, Line: 1, Field: "data.password"},
			"Secret/x/s still holds a value that is encrypted",
		},
	} {
		t.Run(tt.test, func(t *testing.T) {
			out := mustRender(t, newRenderer(t, render.Config{Keys: tt.keys}), fleet().With(name, tt.file).Snapshot(), "one")
			wantError(t, bundle(t, out, "a").Err, tt.want, tt.text)
		})
	}
}

func TestSOPS_errorsOfEnvFile(t *testing.T) {
	keys, to := key(t)
	enc := encrypt(t, to, "g.env", "", "user=x\npassword="+password+"\n")
	mac := 1 + strings.Count(enc[:strings.Index(enc, "sops_mac=")], "\n")
	for _, tt := range []struct {
		test, file string
		keys       *sops.Keyring
		want       api.Error
		text       string
	}{
		{"no keys", enc, nil, api.Error{Reason: "NoKey", Line: 1, Field: "user"}, "there is no age key"},
		{"value moved", strings.Replace(enc, "password=", "passwort=", 1), keys, api.Error{Reason: "NotDecrypted", Line: 2, Field: "passwort"}, "was changed"},
		{"value lost", enc[strings.Index(enc, "password="):], keys, api.Error{Reason: "NotDecrypted", Line: mac - 1, Field: "sops.mac"}, "MAC does not match"},
	} {
		t.Run(tt.test, func(t *testing.T) {
			files := fleet().With("a/kustomization.yaml", "namespace: x\nsecretGenerator: [{name: g, envs: [g.env]}]\n", "a/g.env", tt.file)
			tt.want.File = "a/g.env"
			wantError(t, bundle(t, mustRender(t, newRenderer(t, render.Config{Keys: tt.keys}), files.Snapshot(), "one"), "a").Err, tt.want, tt.text)
		})
	}
}

// An error in a bundle with secrets never shows them, whichever engine is the one to fail.
func TestSOPS_errorsShowNoSecret(t *testing.T) {
	keys, to := key(t)
	values := encrypt(t, to, "v.yaml", "", "password: "+password+"\n")
	chart := []string{"a/bundle.yaml", bundleYAML("a", "{helm: {chart: ./c, valuesFiles: [v.yaml]}}"), "a/v.yaml", values, "a/c/Chart.yaml", "{apiVersion: v2, name: c, version: 1.0.0}"}
	for name, files := range map[string][]string{
		"template that fails with it": append([]string{"a/c/templates/x.yaml", "{{ fail (printf \"bad %s\" .Values.password) }}"}, chart...),
		"template that encodes it":    append([]string{"a/c/templates/x.yaml", "{{ fail (.Values.password | b64enc) }}"}, chart...),
		"schema that refuses it":      append([]string{"a/c/values.schema.json", `{"properties": {"password": {"enum": ["x"]}}}`}, chart...),
		"resource that is no object": {
			"a/kustomization.yaml", "resources: [x.txt]\n", "a/x.txt", encrypt(t, to, "x.txt", "", "kind: "+password+"\n"),
		},
		"patch of it": {
			"a/kustomization.yaml", "resources: [s.yaml]\npatches:\n- target: {kind: Secret}\n  patch: |-\n    - {op: test, path: /stringData/password, value: x}\n",
			"a/s.yaml", encrypt(t, to, "s.yaml", "^stringData$", secretYAML),
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := bundle(t, mustRender(t, newRenderer(t, render.Config{Keys: keys}), fleet().With(files...).Snapshot(), "one"), "a").Err
			if err == nil {
				t.Fatal("there is no error")
			}
			for _, form := range []string{password, base64.StdEncoding.EncodeToString([]byte(password))} {
				if strings.Contains(err.Error(), form) {
					t.Errorf("the error shows the secret: %v", err)
				}
			}
		})
	}
}

// A key that arrives later is found, and a bundle without secrets does not care.
func TestSOPS_keyFileChanges(t *testing.T) {
	first, _, err := sopstest.Key()
	if err != nil {
		t.Fatal(err)
	}
	second, to, err := sopstest.Key()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.txt")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// An agent starts without it, and fails what needs it.
	if _, err := sops.Open(sops.Config{Files: []string{file}}); err == nil {
		t.Error("a key file that is missing is accepted")
	}
	keys, err := sops.Open(sops.Config{Files: []string{file}, Later: true})
	if err != nil || keys.Problem() == nil {
		t.Fatal(err, keys.Problem())
	}
	early := newRenderer(t, render.Config{Keys: keys})
	late := fleet().With("s/bundle.yaml", bundleYAML("s", ""), "s/s.yaml", encrypt(t, to, "s.yaml", "^(data|stringData)$", secretYAML)).Snapshot()
	out := mustRender(t, early, late, "one")
	wantError(t, bundle(t, out, "s").Err, api.Error{Reason: "NoKey", File: "s/s.yaml", Line: 1, Field: "stringData.password"}, "the key files cannot be read")
	if err := bundle(t, out, "a").Err; err != nil {
		t.Error(err)
	}
	if early.Changed(mustRender(t, early, late, "one").Keys) {
		t.Error("a change of the keys is seen where there is none")
	}
	write(second + "\n")
	mustRender(t, early, fleet().Snapshot(), "one") // of an older revision, which was applied: it says nothing of this one
	if !early.Changed(out.Keys) {
		t.Error("that the key file came is not noticed")
	}
	if err := bundle(t, mustRender(t, early, late, "one"), "s").Err; err != nil {
		t.Error(err)
	}

	write(first + "\n")
	if keys, err = sops.Open(sops.Config{Files: []string{file}}); err != nil {
		t.Fatal(err)
	}
	r := newRenderer(t, render.Config{Keys: keys})
	snap := fleet().With("s/bundle.yaml", bundleYAML("s", ""), "s/s.yaml", encrypt(t, to, "s.yaml", "^(data|stringData)$", secretYAML)).Snapshot()
	before := mustRender(t, r, snap, "one")
	wantError(t, bundle(t, before, "s").Err, api.Error{Reason: "NoKey", File: "s/s.yaml", Line: 1, Field: "stringData.password"}, to)

	write("# both\n" + first + "\n" + second + "\n")
	after := mustRender(t, r, snap, "one")
	if got := secretValue(t, bundle(t, after, "s"), "s", "password"); got != password {
		t.Errorf("got %q", got)
	}
	if !same(bundle(t, before, "a"), bundle(t, after, "a")) {
		t.Error("a bundle without secrets was rendered again")
	}

	write(first + "\n")
	wantError(t, bundle(t, mustRender(t, r, snap, "one"), "s").Err, api.Error{Reason: "NoKey", File: "s/s.yaml", Line: 1, Field: "stringData.password"}, to)

	write(second + "\n")
	mustRender(t, r, snap, "one")
	write("nonsense with " + second + " in it\n")
	snap = fleet().With("s/bundle.yaml", bundleYAML("s", ""), "s/s.yaml", encrypt(t, to, "s.yaml", "^stringData$", secretYAML)).Snapshot()
	if got := secretValue(t, bundle(t, mustRender(t, r, snap, "one"), "s"), "s", "password"); got != password {
		t.Errorf("a bad key file takes away the keys that were good: %q", got)
	}
}

func TestSOPS_open(t *testing.T) {
	identity, _, err := sopstest.Key()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.txt")
	if err := os.WriteFile(file, []byte("x"+identity), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []sops.Config{{Files: []string{file}}, {Files: []string{file + ".no"}}, {Identities: []string{"x" + identity}}} {
		if _, err := sops.Open(cfg); err == nil || strings.Contains(err.Error(), identity[20:]) {
			t.Errorf("%v: got %v", cfg.Files, err)
		}
	}
	var none *sops.Keyring
	none.Refresh()
	if diff := cmp.Diff("", none.Fingerprint()); diff != "" {
		t.Error(diff)
	}
}
