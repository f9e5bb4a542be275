package janitor

// Share sets the part of the time that removing records may take.
func (r *Records) Share(share float64) { r.share = share }
