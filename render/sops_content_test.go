package render_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
	"github.com/flotilla-fleet/flotilla/render/sops/sopstest"
)

// What SOPS wrote is known by its content, whatever the file is called.
func TestSOPS_formatByContent(t *testing.T) {
	keys, to := key(t)
	const (
		inYAML = "a: " + password + "\nl: [1, 2]\n"
		inJSON = "{\n\t\"a\": \"" + password + "\",\n\t\"n\": 1.5\n}\n"
		inEnv  = "USER=me\nPASSWORD=" + password + "\n"
		inINI  = "[db]\npassword = " + password + "\n"
		inText = "just " + password + "\nand more\n"
	)
	for _, tt := range []struct {
		as, plain string
		names     []string
	}{
		{"x.yaml", inYAML, []string{"config.yaml.enc", "config.enc.yaml", "config.yml.encrypted", "config.enc", "config", "config.conf", "config.env", "config.json"}},
		{"x.json", inJSON, []string{"config.json.encrypted", "config.json", "config.enc", "config", "config.conf"}},
		{"x.env", inEnv, []string{"config.env.encrypted", "config.env", ".env.enc", "config.enc", "config", "config.yaml"}},
		{"x.ini", inINI, []string{"config.ini.enc", "config.ini", "config.enc", "my.cnf"}},
		{"x.txt", inText, []string{"config.txt", "config.txt.enc", "config", "config.json", "tls.key"}},
	} {
		for _, name := range tt.names {
			t.Run(tt.as+" as "+name, func(t *testing.T) {
				files := rendertest.Files{
					"clusters/one/cluster.yaml": clusterYAML("one", "prod", ""),
					"a/bundle.yaml":             bundleYAML("a", "{namespace: x}"),
					"a/kustomization.yaml":      "secretGenerator:\n- name: s\n  files: [config=" + name + "]\n",
					"a/" + name:                 encrypt(t, to, tt.as, "", tt.plain),
				}
				out := mustRender(t, newRenderer(t, render.Config{Keys: keys}), files.Snapshot(), "one")
				got := secretValue(t, bundle(t, out, "a"), "s", "config")
				if !strings.Contains(got, password) || strings.Contains(got, "ENC[") || strings.Contains(got, "sops") {
					t.Errorf("got %q", strings.ReplaceAll(got, password, "(the password)"))
				}
				if tt.as == "x.txt" && name != "config.json" && got != tt.plain {
					t.Error("the text is not what it was")
				}
			})
		}
	}
}

// Values files and environment files are decrypted under any name, too.
func TestSOPS_valuesAndEnvUnderOtherNames(t *testing.T) {
	keys, to := key(t)
	files := chart("{namespace: x, helm: {chart: ./chart, valuesFiles: [v.yaml.enc, w.enc]}}",
		"h/v.yaml.enc", encrypt(t, to, "v.yaml", "", "pw: "+password+"\n"), "h/w.enc", encrypt(t, to, "w.json", "", "{\"user\": \"me-"+password+"\"}"),
		"h/chart/templates/cm.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {dsn: {{ printf \"%s:%s\" .Values.user .Values.pw | quote }} }\n",
		"a/bundle.yaml", bundleYAML("a", "{namespace: x}"), "a/cm.yaml", "",
		"a/kustomization.yaml", "secretGenerator:\n- name: e\n  envs: [app.env.encrypted]\n- name: f\n  envs: [app.secret]\n",
		"a/app.env.encrypted", encrypt(t, to, "app.env", "", "PASSWORD="+password+"\n"), "a/app.secret", encrypt(t, to, "app.env", "", "PASSWORD="+password+"\n"),
	)
	out := mustRender(t, newRenderer(t, render.Config{Keys: keys}), files.Snapshot(), "one")
	if got := secretValue(t, bundle(t, out, "h"), "s", "dsn"); got != "me-"+password+":"+password {
		t.Error("the values are not decrypted")
	}
	for _, name := range []string{"e-", "f-"} {
		if got := secretValue(t, bundle(t, out, "a"), name, "PASSWORD"); got != password {
			t.Errorf("Secret %s is not decrypted", name)
		}
	}
}

// What is still encrypted fails its bundle, wherever in a value it is.
func TestSOPS_stillEncryptedAnywhere(t *testing.T) {
	keys, to := key(t)
	inJSON, inYAML := encrypt(t, to, "x.json", "", "{\"a\": \""+password+"\"}"), encrypt(t, to, "x.yaml", "", "a: "+password+"\n")
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	block := func(s string) string { return "|\n    " + strings.ReplaceAll(s, "\n", "\n    ") }
	for _, tt := range []struct{ name, kind, field, value string }{
		{"a file in base64", "Secret", "data", b64(inJSON)},
		{"a YAML file in base64", "Secret", "data", b64(inYAML)},
		{"base64 of base64", "Secret", "data", b64(b64(inJSON))},
		{"a file in a text", "Secret", "stringData", block(inYAML)},
		{"a file in a ConfigMap", "ConfigMap", "data", block(inYAML)},
		{"binaryData", "ConfigMap", "binaryData", b64(inJSON)},
		{"one line in a text", "ConfigMap", "data", block("PASSWORD=" + strings.TrimPrefix(strings.Split(inYAML, "\n")[0], "a: ") + "\nUSER=me\n")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := "apiVersion: v1\nkind: " + tt.kind + "\nmetadata: {name: s}\n" + tt.field + ":\n  k: " + tt.value + "\n"
			field := strings.Replace(tt.field, "stringData", "data", 1) + ".k"
			out := mustRender(t, newRenderer(t, render.Config{Keys: keys}), fleet().With("a/cm.yaml", text).Snapshot(), "one")
			wantError(t, bundle(t, out, "a").Err, api.Error{Reason: "StillEncrypted", File: "a/cm.yaml", Line: 1, Field: field}, "still holds a value that is encrypted")

			hook := strings.Replace(text, "{name: s}", "{name: s, annotations: {helm.sh/hook: pre-install}}", 1)
			out = mustRender(t, newRenderer(t, render.Config{Keys: keys}), chart("{helm: {chart: ./chart}}", "h/chart/templates/x.yaml", hook).Snapshot(), "one")
			wantError(t, bundle(t, out, "h").Err, api.Error{Reason: "StillEncrypted", File: "h/chart/templates/x.yaml", Line: 1, Field: field}, "still holds a value that is encrypted")
		})
	}
	for name, value := range map[string]string{
		"a text about SOPS": "'values look like ENC[AES256_GCM,data:…] in Git'", "base64": b64("nothing of it"), "not base64": "eA==x",
	} {
		out := mustRender(t, newRenderer(t, render.Config{Keys: keys}), fleet().With("a/cm.yaml", configMap("a", "k: "+value)).Snapshot(), "one")
		if err := bundle(t, out, "a").Err; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Where several groups of keys are needed together, the error says how many there are.
func TestSOPS_shamirThreshold(t *testing.T) {
	keys, first := key(t)
	_, second := key(t)
	_, third := key(t)
	shared, err := sopstest.EncryptShared([]string{first, second, third}, 2, "s.yaml", "^(data|stringData)$", []byte(secretYAML))
	if err != nil {
		t.Fatal(err)
	}
	out := mustRender(t, newRenderer(t, render.Config{Keys: keys}), fleet().With("a/cm.yaml", string(shared)).Snapshot(), "one")
	wantError(t, bundle(t, out, "a").Err, api.Error{Reason: "NoKey", File: "a/cm.yaml", Line: 1, Field: "stringData.password"},
		"3 groups of keys, of which 2 are needed together (the Shamir threshold), and the 1 age keys open 1")
	stranger, _ := key(t)
	out = mustRender(t, newRenderer(t, render.Config{Keys: stranger}), fleet().With("a/cm.yaml", string(shared)).Snapshot(), "one")
	wantError(t, bundle(t, out, "a").Err, api.Error{Reason: "NoKey", File: "a/cm.yaml", Line: 1, Field: "stringData.password"}, "none of the 1 age keys is one of these")
}
