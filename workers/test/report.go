package test

// maxNames bounds the names in a result, which is kept for ever.
const maxNames = 100

// report counts tests by their result.
type report struct {
	passed, failed, skipped int
	failures                []string
}

func (r *report) fail(name string) {
	r.failed++
	if len(r.failures) < maxNames {
		const maxLength = 300
		r.failures = append(r.failures, name[:min(len(name), maxLength)])
	}
}

// names are the failed tests; never nil, so that they are a list in JSON.
func (r *report) names() []string {
	return append([]string{}, r.failures...)
}
