package audit

import (
	"context"
	"fmt"
)

// Lost gives the partitions of which LOG has other records, or none, where the
// audit log has some, and why they must not go on. It compares the end of the
// audit log, and knows what was found lost before and was not let go on since.
func Lost(ctx context.Context, s Store, log Source) (map[int]error, error) {
	lost := map[int]error{}
	err := s.Read(ctx, Query{Filters: []string{epochFilter}}, func(raw Raw) error {
		m, err := decode(raw)
		switch {
		case err != nil:
			return err
		case m.Loss != nil:
			for _, vp := range m.Loss.Partitions {
				lost[vp] = fmt.Errorf("records of it, from sequence %d to %d, were lost, says message %d of the audit log, and nobody has confirmed that", m.Loss.From, m.Loss.To, m.Seq())
			}
		case m.Epoch != nil:
			delete(lost, m.Epoch.Partition)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	at, err := find(ctx, s)
	if err != nil {
		return nil, err
	}
	loss, changed, err := compare(ctx, s, log, at)
	if err != nil {
		return nil, err
	}
	for vp, err := range changed {
		lost[vp] = err
	}
	if loss != nil {
		for _, vp := range loss.Partitions {
			lost[vp] = loss.err()
		}
	}
	return lost, nil
}

// err says why a partition with records among them must not go on.
func (l *Loss) err() error {
	return fmt.Errorf("its newest records were lost: the audit log has records up to sequence %d, the store has others, or none, from %d on", l.To, l.From)
}
