//go:build !unix

package demo

import "context"

func heedSignals(parent context.Context) (context.Context, func()) {
	return context.WithCancel(parent)
}
