package health

import (
	"testing"

	"sigs.k8s.io/yaml"
)

func TestContainerReason(t *testing.T) {
	for _, tt := range []struct{ name, status, want string }{
		{"it runs and is ready", "{ready: true, state: {running: {}}}", ""},
		{"it runs and was never ended", "{ready: false, state: {running: {}}}", ""},
		{"it is made", "{ready: false, state: {waiting: {reason: ContainerCreating}}}", ""},
		{"it ends again and again", "{ready: false, restartCount: 3, state: {waiting: {reason: CrashLoopBackOff, message: back-off}}, lastState: {terminated: {exitCode: 3}}}", "CrashLoopBackOff back-off last exit code 3"},
		{"it runs between two ends", "{ready: false, restartCount: 3, state: {running: {}}, lastState: {terminated: {exitCode: 3}}}", "is not ready, was restarted 3 times, and ended with exit code 3 before"},
		{"it was restarted and is well", "{ready: true, restartCount: 3, state: {running: {}}, lastState: {terminated: {exitCode: 3}}}", ""},
		{"it has ended", "{ready: false, restartCount: 1, state: {terminated: {exitCode: 4, reason: Error}}, lastState: {terminated: {exitCode: 3}}}", "ended with exit code 4 Error"},
		{"it has done its work", "{ready: false, state: {terminated: {exitCode: 0, reason: Completed}}}", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s map[string]any
			if err := yaml.Unmarshal([]byte(tt.status), &s); err != nil {
				t.Fatal(err)
			}
			integers(s)
			if got := containerReason(s); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// integers makes numbers what they are in an object that the API server sent.
func integers(m map[string]any) {
	for k, v := range m {
		switch v := v.(type) {
		case float64:
			m[k] = int64(v)
		case map[string]any:
			integers(v)
		}
	}
}
