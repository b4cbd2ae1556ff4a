package apply_test

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func patchOptions(manager string) metav1.PatchOptions {
	return metav1.PatchOptions{FieldManager: manager}
}
