package helm

// Merge layers values: later ones win, mappings are merged key by key, everything else is replaced.
// A nil (null) stays, for it deletes a chart's default. The inputs are left as they are.
func Merge(layers ...map[string]any) map[string]any {
	out := map[string]any{}
	for _, l := range layers {
		mergeInto(out, l)
	}
	return out
}

func mergeInto(dst, src map[string]any) {
	for k, v := range src {
		if sub, ok := v.(map[string]any); ok {
			if have, ok := dst[k].(map[string]any); ok {
				mergeInto(have, sub)
				continue
			}
			fresh := map[string]any{}
			mergeInto(fresh, sub)
			dst[k] = fresh
			continue
		}
		dst[k] = copied(v)
	}
}

func copied(v any) any {
	switch x := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(x))
		for k, e := range x {
			m[k] = copied(e)
		}
		return m
	case []any:
		s := make([]any, len(x))
		for i, e := range x {
			s[i] = copied(e)
		}
		return s
	}
	return v
}
