package audit

import "context"

// Diary calls fn with the messages that are no records, from sequence from on:
// notes, epochs and losses. An error of fn ends the reading and is returned,
// except ErrEnough.
func Diary(ctx context.Context, s Store, from uint64, fn func(*Message) error) error {
	return s.Read(ctx, Query{Filters: []string{noteFilter, epochFilter}, From: from}, func(raw Raw) error {
		m, err := decode(raw)
		if err != nil {
			return err
		}
		if m.Kind == KindLog { // that there was nothing
			return nil
		}
		return fn(m)
	})
}
