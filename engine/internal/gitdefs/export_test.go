package gitdefs

// Limit sets how large the copy may get, in bytes.
func (r *Repository) Limit(most int64) { r.most = most }
