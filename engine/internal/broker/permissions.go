package broker

import (
	"slices"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

// artifactStream is the stream under the object store.
const artifactStream = "OBJ_" + events.BucketBlobs

// accountOf is where principals of a kind live.
func accountOf(kind string) string {
	switch kind {
	case bus.KindWorker:
		return events.AccountWork
	case bus.KindPublisher:
		return events.AccountExt
	default:
		return events.AccountUsers
	}
}

// permissions are all that a principal may do. taskKinds are the kinds whose
// tasks a worker may take.
//
// What is missing is missing on purpose. JetStream publishes its answers with
// no permissions but its own, on the reply subject that the caller chose. So
// nobody may create a consumer or use direct get, by which a caller would
// have the server publish a body or headers of the caller's choice anywhere
// in the account. What workers may call answers with a body that the server
// makes (an acknowledgement, a description, a message wrapped in JSON), or
// with a task that the engine signed.
func permissions(p *principal, taskKinds []string) *server.Permissions {
	token := events.Token(p.Name)
	subscribe := []string{bus.InboxPrefix(p.Name) + ".>"}
	var publish []string
	switch p.Kind {
	case bus.KindWorker:
		publish = workerPublish(p, taskKinds)
	case bus.KindPublisher:
		publish = []string{"penstock.ev." + events.Token(events.DefaultTenant) + "." + token + ".>"}
	case bus.KindAdmin:
		publish = []string{events.UserPrefix + token + ".>", events.AdminPrefix + token + ".>"}
		subscribe = append(subscribe, live)
	case bus.KindUser:
		publish = []string{events.UserPrefix + token + ".>"}
		subscribe = append(subscribe, live)
	}
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: publish},
		Subscribe: &server.SubjectPermission{Allow: subscribe},
	}
}

func workerPublish(p *principal, taskKinds []string) []string {
	list := []string{
		events.WorkerPrefix + events.Token(events.DefaultDomain) + "." + events.Token(p.Pool) + "." + events.Token(p.Name) + ".>",
		"penstock.output.>",
		"$O." + events.BucketBlobs + ".C.>", // pieces of artifacts
		"$O." + events.BucketBlobs + ".M.>", // what makes them an artifact
		"$JS.API.STREAM.MSG.GET." + artifactStream,
	}
	for _, kind := range taskKinds {
		consumer := events.TaskConsumer(p.Pool, kind)
		list = append(list,
			"$JS.API.CONSUMER.INFO."+events.StreamTasks+"."+consumer,
			"$JS.API.CONSUMER.MSG.NEXT."+events.StreamTasks+"."+consumer,
			"$JS.ACK."+events.StreamTasks+"."+consumer+".>",
			"$JS.ACK.*.*."+events.StreamTasks+"."+consumer+".>", // the server's coming form
		)
	}
	slices.Sort(list)
	return list
}
