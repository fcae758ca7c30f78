package node

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
)

// ownMetric begins the names of what one sender only sends.
const ownMetric = "own_"

// sender sends requests, one after the other, and repeats each until it is answered.
type sender struct {
	*differential
	rng    *rand.Rand
	number int
	// to is the member that it sends to, most of the time.
	to *member
	// scrape are the series that it repeats, in their order, by their place in the pool.
	scrape []int
	// answered are requests that may be sent again.
	answered []sentRequest
}

type sentRequest struct {
	body    []byte
	version int
}

// senders are as many as the residues that times have, so that no two of them send a value for
// one time of a series.
const senders = 4

// at makes a time one of the sender's own.
func (s *sender) at(t time.Time) int64 {
	ms := t.UnixMilli()
	return ms - ms%senders + int64(s.number)
}

// run sends so many requests.
func (s *sender) run(requests int) {
	for i := range requests {
		if s.over.Err() != nil {
			return
		}
		s.step()
		if s.rng.IntN(10) == 0 {
			select {
			case s.trouble <- struct{}{}:
			default:
			}
		}
		pause := time.Duration(s.rng.IntN(4000)) * time.Millisecond
		if i == requests/2 && s.seed%2 == 0 {
			// Whoever is not sent meanwhile is forgotten, and the head drops it.
			pause = 12 * time.Minute
			s.answered = nil
		}
		select {
		case <-time.After(pause):
		case <-s.over.Done():
		}
	}
}

func (s *sender) step() {
	version := 1 + s.rng.IntN(2)
	sp := &speller{rng: s.rng, version: version}
	switch p := s.rng.IntN(100); {
	case p < 60:
		s.send(sp.request(s.scraped()), version)
	case p < 72:
		s.send(sp.request(s.medley()), version)
	case p < 79:
		s.churn()
		s.send(sp.request(s.scraped()), version)
	case p < 86 && len(s.answered) > 0:
		r := s.answered[s.rng.IntN(len(s.answered))]
		s.send(r.body, r.version)
	case p < 92:
		s.conflict(sp)
	case p < 96:
		s.send(s.broken(sp), version)
	default:
		s.send(sp.request(s.medley()), 3-version) // under the name of the other one
	}
}

// scraped are the sender's series, as an agent sends them.
func (s *sender) scraped() (all []wireSeries) {
	at := s.at(time.Now())
	for _, i := range s.scrape {
		w := wireSeries{pairs: s.pool.pairs(i)}
		w.samples = append(w.samples, s.sample(i, at))
		if s.rng.IntN(12) == 0 {
			w.exemplars = append(w.exemplars, s.exemplar())
		}
		all = append(all, w)
	}
	switch s.rng.IntN(10) {
	case 0:
		s.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	case 1:
		all = all[s.rng.IntN(len(all)):]
	}
	return all
}

// churn replaces some series of the sender's for good.
func (s *sender) churn() {
	for n := 1 + s.rng.IntN(len(s.scrape)); n > 0; n-- {
		s.scrape[s.rng.IntN(len(s.scrape))] = s.pool.fresh()
	}
}

// medley is a request with everything in it that senders should not do, and may.
func (s *sender) medley() (all []wireSeries) {
	now := time.Now()
	for range 1 + s.rng.IntN(12) {
		i := s.scrape[s.rng.IntN(len(s.scrape))]
		if s.rng.IntN(4) == 0 {
			i = s.pool.any(s.rng)
		}
		w := wireSeries{pairs: s.pool.pairs(i), odd: s.rng.IntN(3) == 0}
		s.disfigure(&w)
		for range s.rng.IntN(4) {
			at := now
			switch s.rng.IntN(6) {
			case 0, 1:
				at = now.Add(-time.Duration(s.rng.IntN(8*60_000)) * time.Millisecond)
			case 2:
				at = now.Add(-time.Duration(s.rng.IntN(60_000)) * time.Millisecond)
			case 3:
				if s.rng.IntN(4) == 0 {
					at = now.Add(-3*time.Hour - time.Duration(s.rng.IntN(1e6))*time.Millisecond)
				}
			case 4:
				if s.rng.IntN(4) == 0 {
					at = now.Add(time.Hour)
				}
			}
			w.samples = append(w.samples, s.sample(i, s.at(at)))
		}
		if i%5 == 4 && s.rng.IntN(2) == 0 {
			all = append(all, wireSeries{pairs: s.pool.pairs(i - 1), samples: []wireSample{s.sample(i-1, s.at(now))}})
		}
		for range s.rng.IntN(2) {
			w.exemplars = append(w.exemplars, s.exemplar())
		}
		all = append(all, w)
		if s.rng.IntN(5) == 0 { // twice in a request, maybe with another value for the time
			w.samples = slices.Clone(w.samples)
			for j := range w.samples {
				if s.rng.IntN(2) == 0 {
					w.samples[j] = s.sample(i, s.at(now.Add(-time.Duration(s.rng.IntN(10))*time.Second)))
				}
			}
			all = append(all, w)
		}
	}
	return all
}

// disfigure changes the labels of some series.
func (s *sender) disfigure(w *wireSeries) {
	extra := func(name, text string) {
		w.pairs = slices.Insert(slices.Clone(w.pairs), s.rng.IntN(len(w.pairs)+1), [2]string{name, text})
	}
	switch s.rng.IntN(16) {
	case 0, 1:
		w.pairs = slices.Clone(w.pairs)
		s.rng.Shuffle(len(w.pairs), func(i, j int) { w.pairs[i], w.pairs[j] = w.pairs[j], w.pairs[i] })
	case 2, 3:
		extra(fmt.Sprint("empty", s.rng.IntN(3)), "")
	case 4:
		extra(w.pairs[s.rng.IntN(len(w.pairs))][0], []string{"", "twice"}[s.rng.IntN(2)])
	case 5:
		extra("bad", "\xff\xfe")
	case 6:
		extra("b\xc3", "x")
	case 7:
		extra("", "x")
	case 8:
		w.pairs = slices.DeleteFunc(slices.Clone(w.pairs), func(p [2]string) bool { return p[0] == "__name__" })
	case 9:
		for i := range 130 {
			if s.rng.IntN(40) == 0 {
				break // as many as are taken
			}
			extra(fmt.Sprint("many", i), "x")
		}
	}
}

// conflict sends another value for the newest time of a series.
func (s *sender) conflict(sp *speller) {
	w := wireSeries{pairs: [][2]string{{"__name__", fmt.Sprint(ownMetric, s.number)}, {"n", strconv.Itoa(s.rng.IntN(3))}}}
	at := s.at(time.Now())
	for i := range 2 {
		w.samples = []wireSample{{t: at, v: float64(s.rng.IntN(1000)) + float64(i)/2}}
		s.send(sp.request(append(s.scraped(), w)), sp.version)
	}
}

// broken is a body that comes to nothing.
func (s *sender) broken(sp *speller) []byte {
	body := sp.request(s.scraped())
	switch s.rng.IntN(3) {
	case 0:
		return body[:s.rng.IntN(len(body))]
	case 1:
		return []byte("no message at all")
	default: // well compressed
		return s.torn(s.rng, body)
	}
}

// sample is one of a series of the pool, which has one type of samples for good.
func (s *sender) sample(i int, at int64) wireSample {
	w := wireSample{t: at}
	if s.rng.IntN(3) == 0 {
		w.st = at - int64(1+s.rng.IntN(1e6))
	}
	n := int64(s.rng.IntN(1000))
	stale := s.rng.IntN(25) == 0
	switch kind := i % 12; {
	case kind > 3 || stale:
		w.v = s.float()
		if stale {
			w.v = math.Float64frombits(value.StaleNaN)
		}
	case kind == 0:
		w.h = tsdbutil.GenerateTestHistogram(n)
	case kind == 1:
		w.fh = tsdbutil.GenerateTestFloatHistogram(n)
	case kind == 2:
		w.h = tsdbutil.GenerateTestCustomBucketsHistogram(n)
	default:
		w.h = tsdbutil.GenerateTestGaugeHistogram(n)
	}
	if s.rng.IntN(15) == 0 {
		if w.h != nil {
			w.h.Count++ // which the buckets do not come to
		}
		if w.fh != nil {
			w.fh.PositiveBuckets[0] = -1
		}
	}
	return w
}

func (s *sender) float() float64 {
	switch s.rng.IntN(10) {
	case 0:
		odd := []uint64{0x7ff8000000000001, 0x7ff0000000000003, 0xfff8000000000000, 0x7ff0000000000000, 0xfff0000000000000, 1 << 63, 0, 1}
		return math.Float64frombits(odd[s.rng.IntN(len(odd))])
	case 1, 2:
		return float64(s.rng.IntN(100_000)) / 100
	case 3:
		return math.Float64frombits(s.rng.Uint64())
	default:
		return float64(s.rng.IntN(1 << 20))
	}
}

func (s *sender) exemplar() wireExemplar {
	id := strconv.Itoa(s.rng.IntN(1e9))
	if s.rng.IntN(10) == 0 {
		id = string(bytes.Repeat([]byte("x"), 130))
	}
	pairs := [][2]string{{"trace_id", id}, {"span", "s"}}
	return wireExemplar{pairs, float64(s.rng.IntN(100)), s.at(time.Now().Add(-time.Duration(s.rng.IntN(20_000)) * time.Millisecond))}
}

// send sends a request until it is answered.
func (s *sender) send(body []byte, version int) {
	for attempt := 0; ; attempt++ {
		if s.to == nil || s.rng.IntN(8) == 0 || attempt > 0 {
			s.to = s.any(s.rng)
		}
		a := s.post(body, version)
		if a.code != 0 && a.code != http.StatusServiceUnavailable {
			s.answer(a, body, version, attempt)
			return
		}
		if attempt == 500 {
			s.fail("a request is not answered: %d %s", a.code, a.text)
			return
		}
		select {
		case <-time.After(time.Duration(200+s.rng.IntN(1000)) * time.Millisecond):
		case <-s.over.Done():
			return
		}
	}
}

// sendOnce sends a request that has to be answered.
func (s *sender) sendOnce(body []byte, version int) {
	a := s.post(body, version)
	if a.code == 0 || a.code == http.StatusServiceUnavailable {
		s.fail("%s answers %+v though nothing is wrong", s.to.name, a)
		return
	}
	s.answer(a, body, version, 0)
}

// answer compares an answer with what the plain way comes to.
func (s *sender) answer(a written, body []byte, version, attempt int) {
	v := s.plain.take(body, version, attempt == 0)
	s.compare(a, v, version, attempt == 0)
	if !v.malformed {
		s.answered = append(s.answered, sentRequest{body, version})
	}
	s.tally(body, version, v, attempt)
}

// written is an answer to a write.
type written struct {
	code                          int
	text                          string
	floats, histograms, exemplars int
}

func (s *sender) post(body []byte, version int) (a written) {
	req, err := http.NewRequest(http.MethodPost, "http://"+s.to.ip+":9080/api/v1/write", bytes.NewReader(body))
	if err != nil {
		return written{text: err.Error()}
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	if version == 2 {
		req.Header.Set("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")
	}
	resp, err := s.to.http.Do(req)
	if err != nil {
		return written{text: err.Error()}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return written{text: err.Error()}
	}
	a = written{code: resp.StatusCode, text: string(text)}
	for what, n := range map[string]*int{"Samples": &a.floats, "Histograms": &a.histograms, "Exemplars": &a.exemplars} {
		*n, _ = strconv.Atoi(resp.Header.Get("X-Prometheus-Remote-Write-" + what + "-Written"))
	}
	return a
}

// compare compares an answer with the verdict of the plain way.
func (s *sender) compare(a written, v verdict, version int, first bool) {
	refused := 0
	if a.code == http.StatusBadRequest {
		if _, err := fmt.Sscanf(a.text, "%d invalid, everything else is written", &refused); err != nil {
			refused = -1 // all of it
		}
	}
	wrong := ""
	floats, histograms := a.floats, a.histograms
	switch conflicts := refused - v.invalid; {
	case v.malformed || refused < 0:
		if !v.malformed || refused >= 0 || a.floats+a.histograms+a.exemplars > 0 {
			wrong = "as a whole"
		}
	case (a.code == http.StatusNoContent) != (refused == 0) || a.code != http.StatusNoContent && a.code != http.StatusBadRequest:
		wrong = "the status"
	case conflicts < 0 || conflicts > v.disputed:
		wrong = "what is refused"
	case version == 1:
	case floats+histograms != v.floats+v.histograms-conflicts,
		v.disputed == 0 && floats != v.floats:
		wrong = "what is written"
	case a.exemplars > v.exemplars || s.plain.exact && first && a.exemplars < v.certain:
		wrong = "the exemplars that are written"
	}
	if wrong != "" {
		s.fail("%s: %s answers version %d with %+v, the plain way is %+v", wrong, s.to.name, version, a, v)
	}
}
