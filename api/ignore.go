package api

// Matches reports whether a rule with this target concerns an object.
func (t IgnoreTarget) Matches(ref ObjectRef) bool {
	return wild(t.Group, ref.Group) && wild(t.Kind, ref.Kind) &&
		wild(t.Namespace, ref.Namespace) && wild(t.Name, ref.Name)
}

// wild matches s against a pattern in which "*" stands for any run of characters. An empty pattern matches anything.
func wild(pattern, s string) bool {
	if pattern == "" {
		return true
	}
	// star and mark are where to go on when the text after the last star does not fit.
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
