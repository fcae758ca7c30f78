package api

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/spent"
)

// What a node has not said is unknown, and not zero.
func TestStatsOfNodesThatDoNotSay(t *testing.T) {
	ctx, q := spent.With(context.Background())
	r := spent.Of(ctx).Begin("up")
	r.Proved(time.Second)
	r.Answered(spent.Node{ID: "1", Took: 2 * time.Second, Bytes: 30, Series: 4})
	r.Answered(spent.Node{ID: "2", Took: 3 * time.Second, Owner: &spent.Owner{Waiting: time.Second, Reading: -1, Samples: 6, Series: 5}})
	r.Answered(spent.Node{ID: "3", Failed: "it fell silent"})
	r.Ended(4 * time.Second)
	wanted := &statsRequest{param: statsAll, spent: q}
	got, err := json.Marshal(wanted.distributed(func(id string) NodeName {
		if id == "1" {
			return NodeName{Name: "one", Address: "10.0.0.1:9081"}
		}
		return NodeName{}
	}))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"fragments":[],"whole":[],"selectors":[{"selector":"up","seconds":4,"provingSeconds":1,"nodes":[` +
		`{"id":"1","name":"one","address":"10.0.0.1:9081","seconds":2,"bytesReceived":30,"series":4,"owner":null},` +
		`{"id":"2","seconds":3,"bytesReceived":0,"series":0,"owner":{"waitingSeconds":1,"readingSeconds":0,"evaluatingSeconds":0,"seriesRead":5,"samplesRead":6}},` +
		`{"id":"3","seconds":0,"bytesReceived":0,"series":0,"failed":"it fell silent","owner":null}]}],` +
		`"read":{"seriesRead":5,"samplesRead":6,"bytesReceived":30,"unknown":2}}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Where nobody wants to know, nothing is noted and nothing breaks.
func TestNothingIsNotedForNobody(t *testing.T) {
	r := spent.Of(context.Background()).Begin("up")
	if r != nil {
		t.Fatal("a read of nobody")
	}
	r.Answered(spent.Node{})
	r.Proved(time.Second)
	r.Ended(time.Second)
	if n := testing.AllocsPerRun(100, func() { spent.Of(context.Background()).Begin("up").Proved(time.Second) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
