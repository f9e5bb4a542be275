package broker

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
)

// serverLog is the server's logger.
type serverLog struct {
	log   *slog.Logger
	fatal chan string // the first reason why the server cannot go on
	// frozen is told that the server could not write a stream, which takes
	// nothing more from then on.
	frozen func(reason string)
}

func (l *serverLog) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *serverLog) Warnf(format string, v ...any) {
	l.log.Log(context.Background(), warning(format), fmt.Sprintf(format, v...))
}
func (l *serverLog) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.log.Error(text)
	if strings.Contains(format, "Critical write error") {
		l.frozen(text)
	}
}
func (l *serverLog) Debugf(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *serverLog) Tracef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }

func (l *serverLog) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.log.Error(text)
	select {
	case l.fatal <- text:
	default:
	}
}

// warning is the level of a warning of the server. That an index is made anew
// after a kill is no cause for alarm: the messages themselves are whole.
func warning(format string) slog.Level {
	if strings.Contains(format, "will rebuild") || strings.Contains(format, "Recovering stream state from index errored") {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}
