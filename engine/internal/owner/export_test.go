package owner

// Reassure is what an owner does that has stood still.
func (o *Owner) Reassure() { o.reassure() }
