package transport

import (
	"encoding/binary"
	"io"
	"net"
	"reflect"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/starling-tsdb/starling/internal/pushdown"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

func marshalled(f testing.TB, m proto.Message) []byte {
	f.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// FuzzWriteAnswer: refusals of items that were not sent are found before they are counted.
func FuzzWriteAnswer(f *testing.F) {
	f.Add(marshalled(f, &peerpb.WriteAnswer{Refusals: []*peerpb.Refusal{
		{Series: 1, Item: 1, Reason: peerpb.Refusal_REASON_CONFLICT, Message: "m"},
		{Series: 0, Exemplar: true, Reason: peerpb.Refusal_REASON_INVALID},
	}}))
	f.Add(marshalled(f, &peerpb.WriteAnswer{Refusals: []*peerpb.Refusal{{Series: 1 << 31, Item: 1 << 31}}}))
	f.Add(marshalled(f, &peerpb.WriteAnswer{Request: 1, Failure: &peerpb.Failure{Mismatch: &peerpb.EpochMismatch{}}}))
	f.Add(marshalled(f, &peerpb.WriteAnswer{Request: 9}))
	f.Add(marshalled(f, &peerpb.WriteAnswer{Draining: true}))
	sent := []series.Series{{Samples: make([]series.Sample, 1), Exemplars: make([]exemplar.Exemplar, 1)}, {Samples: make([]series.Sample, 2)}}
	f.Fuzz(func(t *testing.T, msg []byte) {
		var a peerpb.WriteAnswer
		if proto.Unmarshal(msg, &a) != nil {
			return
		}
		s := newAppendStream(&Peer{}, "")
		c := &appendCall{batch: &series.Batch{Series: sent}, items: 2, done: make(chan struct{})}
		s.add(c)
		if s.take() != c {
			t.Fatal("no call in the queue")
		}
		_ = s.answered(&a)
		s.encode(c)
		if s.answered(&a) != nil || !c.ended || c.err != nil {
			return
		}
		confirmation, err := confirmationOf(c.batch, c.parts)
		if err != nil {
			return
		}
		for _, r := range confirmation.Refusals {
			items := len(sent[r.Series].Samples)
			if r.Exemplar {
				items = len(sent[r.Series].Exemplars)
			}
			if r.Item >= items {
				t.Fatalf("refusal %+v of an item that was not sent", r)
			}
		}
	})
}

// FuzzSelectRequest: matchers and hints are taken as they were sent, or refused.
func FuzzSelectRequest(f *testing.F) {
	for _, m := range []*labels.Matcher{
		labels.MustNewMatcher(labels.MatchEqual, "__name__", "up"),
		labels.MustNewMatcher(labels.MatchNotRegexp, "\xff", "a|b.*"),
	} {
		f.Add(marshalled(f, &peerpb.SelectRequest{
			Matchers: matchersToProto([]*labels.Matcher{m}),
			Hints:    hintsToProto(&storage.SelectHints{Start: -1, End: 1, Func: "rate", Grouping: []string{"a"}, ShardCount: 2}),
		}))
	}
	f.Add(marshalled(f, &peerpb.SelectRequest{Matchers: []*peerpb.Matcher{{Type: 9}, {Type: 2, Value: []byte("(((")}}}))
	f.Fuzz(func(t *testing.T, msg []byte) {
		var req peerpb.SelectRequest
		if proto.Unmarshal(msg, &req) != nil {
			return
		}
		_ = labelsOnly(req.Hints)
		if h := hintsFromProto(req.Hints); h != nil && !proto.Equal(hintsToProto(h), withoutUnknown(req.Hints)) {
			t.Fatalf("hints %v became %v", req.Hints, hintsToProto(h))
		}
		ms, err := matchersFromProto(req.Matchers)
		if err != nil {
			return
		}
		for i, m := range matchersToProto(ms) {
			if !proto.Equal(m, withoutUnknown(req.Matchers[i])) {
				t.Fatalf("matcher %v became %v", req.Matchers[i], m)
			}
			ms[i].Matches("up")
		}
	})
}

// withoutUnknown drops the fields of other versions.
func withoutUnknown[M proto.Message](m M) M {
	m.ProtoReflect().SetUnknown(nil)
	return m
}

// FuzzSelectResponse: a stream of frames is a set of series or an error. A chunk that
// cannot be read is found when the frame is decoded, or by its iterator, never by a panic.
func FuzzSelectResponse(f *testing.F) {
	xor := chunkenc.NewXORChunk()
	app, err := xor.Appender()
	if err != nil {
		f.Fatal(err)
	}
	for i := range int64(20) {
		app.Append(0, 15_000*i, float64(i*i))
	}
	chunk := &peerpb.Chunk{MinTimeMs: 0, MaxTimeMs: 15_000 * 19, Encoding: uint32(chunkenc.EncXOR), Data: xor.Bytes()}
	whole := &peerpb.SelectResponse{Series: []*peerpb.ChunkedSeries{{Labels: []string{"__name__", "up"}, Chunks: []*peerpb.Chunk{chunk}}}}
	head := &peerpb.SelectResponse{Series: []*peerpb.ChunkedSeries{{Labels: []string{"a", "b"}, Chunks: []*peerpb.Chunk{chunk}, More: true}}}
	tail := &peerpb.SelectResponse{Series: []*peerpb.ChunkedSeries{{Chunks: []*peerpb.Chunk{chunk}}}, Warnings: []string{"w"}}
	f.Add(framed(marshalled(f, whole)))
	f.Add(framed(marshalled(f, head), marshalled(f, tail)))
	f.Add(framed(marshalled(f, head)))
	for encoding := range uint32(8) {
		for _, data := range [][]byte{nil, {0}, {0, 1}, {0, 0, 0}, {0, 9, 0, 0, 0, 0}} {
			f.Add(framed(marshalled(f, &peerpb.SelectResponse{Series: []*peerpb.ChunkedSeries{
				{Labels: []string{"a", "b"}, Chunks: []*peerpb.Chunk{{Encoding: encoding, Data: data}}},
			}})))
		}
	}
	peer := &Peer{id: "p", owner: NewPeers(PeersOptions{Tables: &holder{}})}
	f.Fuzz(func(t *testing.T, stream []byte) {
		set := &StreamedSet{
			ctx: t.Context(), peer: peer, table: &table.Table{Epoch: 1}, start: time.Now(),
			stream: &frameStream{rest: stream}, builder: labels.NewScratchBuilder(16),
		}
		for set.Next() {
			it := set.At().Iterator(nil)
			for it.Next() {
				samples := it.At().Chunk.Iterator(nil)
				for samples.Next() != chunkenc.ValNone {
					_ = samples.AtT()
				}
			}
		}
		if set.Next() {
			t.Fatal("a series after the end")
		}
	})
}

// framed puts each message behind its length.
func framed(messages ...[]byte) []byte {
	var b []byte
	for _, m := range messages {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(m))), m...)
	}
	return b
}

// frameStream is a gRPC stream of what framed wrote.
type frameStream struct {
	grpc.ClientStream
	rest []byte
}

func (s *frameStream) Recv() (*peerpb.SelectResponse, error) {
	if len(s.rest) < 2 {
		return nil, io.EOF
	}
	n := min(int(binary.BigEndian.Uint16(s.rest)), len(s.rest)-2)
	msg := s.rest[2 : 2+n]
	s.rest = s.rest[2+n:]
	resp := &peerpb.SelectResponse{}
	return resp, proto.Unmarshal(msg, resp)
}

// FuzzListener: the first byte decides who gets a connection, and nothing of it is lost.
func FuzzListener(f *testing.F) {
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	f.Add([]byte{raftPreface, 'r', 'a', 'f', 't'})
	f.Add([]byte{raftPreface})
	f.Add([]byte{0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, sent []byte) {
		base := newQueue(&net.TCPAddr{})
		l := Split(base)
		defer l.Close()
		client, server := net.Pipe()
		base.push(server)
		go func() {
			_, _ = client.Write(sent)
			client.Close()
		}()
		if len(sent) == 0 {
			return // closed by route, which Close waits for nobody to see
		}
		side, want := l.GRPC(), sent
		if sent[0] == raftPreface {
			side, want = l.Raft(), sent[1:]
		}
		conn, err := side.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		got, err := io.ReadAll(conn)
		if err != nil || string(got) != string(want) {
			t.Fatalf("read %q, %v; sent %q", got, err, sent)
		}
	})
}

// FuzzValues: what is made of any message can be put together, asked for, and sent again.
func FuzzValues(f *testing.F) {
	for _, op := range []parser.ItemType{0, parser.SUM, parser.AVG, parser.COUNT} {
		for i := range testPartial(op, 5).Values {
			f.Add(marshalled(f, valuesToProto(&testPartial(op, 5).Values[i])), int(op))
		}
	}
	f.Fuzz(func(t *testing.T, msg []byte, op int) {
		decoded := func() *pushdown.Partial {
			var p peerpb.Values
			if proto.Unmarshal(msg, &p) != nil {
				return nil
			}
			v, err := valuesFromProto(new(labels.ScratchBuilder), &p, parser.ItemType(op), testGrid.Len())
			if err != nil {
				return nil
			}
			return &pushdown.Partial{Values: []pushdown.Values{v}}
		}
		part := decoded()
		if part == nil {
			return
		}
		again, err := valuesFromProto(new(labels.ScratchBuilder), valuesToProto(&part.Values[0]), parser.ItemType(op), testGrid.Len())
		if err != nil || !reflect.DeepEqual(bits(&pushdown.Partial{Values: []pushdown.Values{again}}), bits(part)) {
			t.Fatalf("%+v became %+v, %v", part.Values[0], again, err)
		}
		whole, err := (&pushdown.Fragment{Op: parser.ItemType(op)}).Merge(testGrid, []*pushdown.Partial{part, decoded()}, func() error { return nil })
		if err != nil {
			return
		}
		for step := range testGrid.Len() {
			if _, h, _ := whole.Values[0].At(parser.ItemType(op), step); h != nil {
				_ = h.String()
			}
		}
	})
}
