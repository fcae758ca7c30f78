package transport

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/starling-tsdb/starling/internal/spent"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

// measuring is a message that may be the last one of an answer, and say what it took.
type measuring interface {
	proto.Message
	GetSpent() *peerpb.Spent
}

// received notes a message, and what the peer says in it that the answer took. Nodes of earlier
// versions do not say.
func received(n *spent.Node, m measuring) {
	if n == nil {
		return
	}
	n.Bytes += int64(proto.Size(m))
	if s := m.GetSpent(); s != nil {
		n.Owner = &spent.Owner{
			Waiting: time.Duration(s.WaitingNs), Reading: time.Duration(s.ReadingNs), Evaluating: time.Duration(s.EvaluatingNs),
			Series: s.Series, Samples: s.Samples,
		}
	}
}

// spentOf is where a request that asks for it is measured.
func spentOf(measure bool) *spent.Node {
	if !measure {
		return nil
	}
	return &spent.Node{}
}

func spentToProto(n *spent.Node) *peerpb.Spent {
	if n == nil || n.Owner == nil {
		return nil
	}
	o := n.Owner
	return &peerpb.Spent{
		WaitingNs: int64(o.Waiting), ReadingNs: int64(o.Reading), EvaluatingNs: int64(o.Evaluating), Series: o.Series, Samples: o.Samples,
	}
}
