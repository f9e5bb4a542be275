package audit

import (
	"encoding/json"

	"github.com/penstock-cd/penstock/engine/record"
)

// head is what the check of the chain needs of a record.
type head struct {
	V    int64  `json:"v"`
	Prev string `json:"prev"`
}

func decodeHead(p []byte) (h head, err error) {
	var f struct {
		head
		Format    int    `json:"f"`
		Aggregate string `json:"agg"`
		ID        string `json:"id"`
	}
	if err := json.Unmarshal(p, &f); err != nil {
		return h, err
	}
	if f.Format < 1 || f.Format > record.FormatVersion {
		return h, &record.FormatError{Aggregate: f.Aggregate, ID: f.ID, Format: f.Format}
	}
	return f.head, nil
}
