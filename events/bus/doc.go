// Package bus is the client of Penstock's bus for every program that is not
// the engine: services that publish deployment events, bots that follow
// notifications and approve, the command line, and workers.
//
//	conn, err := bus.Connect(ctx, credential)   // by a credential file
//	err = conn.Publish(ctx, event)              // durable when it returns nil
//	err = conn.Follow(ctx, options, fn)         // live, then nothing missed after a reconnect
//	answer, err := conn.Request(ctx, verb, request, &result)
//
// A request is repeated with the same id until the engine answers or ctx
// ends; every request that changes something carries an id for that. All NATS
// detail stays in this package. It never creates streams or consumers.
package bus
