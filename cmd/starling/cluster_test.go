package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/keyring"
)

func TestClusterCommands(t *testing.T) {
	var got []string
	var sent api.CommandRequest
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Method+" "+r.URL.Path)
		if r.Method == http.MethodPost {
			sent = api.CommandRequest{}
			if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
				t.Error(err)
			}
		}
		body := `{"status":"success","data":{"epoch":3}}`
		if len(sent.Nodes) > 0 && sent.Nodes[0] == "refused" {
			w.WriteHeader(http.StatusConflict)
			body = `{"status":"error","errorType":"conflict","error":"no"}`
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Error(err)
		}
	}))
	defer node.Close()
	const base = "POST /api/v1/cluster/"
	status, plan := "GET /api/v1/cluster", base+"plan"
	yes, no := true, false
	for _, c := range []struct {
		args []string
		want int
		got  []string
		sent api.CommandRequest
	}{
		{[]string{"status"}, 0, []string{status}, api.CommandRequest{}},
		{[]string{"status", "-o", "json"}, 0, []string{status}, api.CommandRequest{}},
		{[]string{"plan", "leave", "a", "b"}, 0, []string{plan}, api.CommandRequest{Op: "leave", Nodes: []string{"a", "b"}}},
		{[]string{"plan", "replace", "a", "b", "--no-lost"}, 0, []string{plan}, api.CommandRequest{Op: "replace", Old: "a", New: "b", Lost: &no}},
		{[]string{"plan", "replication", "2"}, 0, []string{plan}, api.CommandRequest{Op: "replication", ReplicationFactor: 2}},
		{[]string{"leave", "a", "b", "--yes"}, 0, []string{plan, base + "leave"}, api.CommandRequest{Nodes: []string{"a", "b"}}},
		{[]string{"remove", "a", "-y", "--wait"}, 0, []string{plan, base + "remove", status}, api.CommandRequest{Nodes: []string{"a"}}},
		{[]string{"remove", "a", "-y", "--accept-loss"}, 0, []string{plan, base + "remove"}, api.CommandRequest{Nodes: []string{"a"}, AcceptLoss: true}},
		{[]string{"plan", "remove", "a", "--accept-loss"}, 0, []string{plan}, api.CommandRequest{Op: "remove", Nodes: []string{"a"}, AcceptLoss: true}},
		{[]string{"repair"}, 0, []string{base + "repair"}, api.CommandRequest{}},
		{[]string{"repair", "--from=2026-01-31T12:00:00Z", "--to", "2026-02-01T00:00:00+02:00", "-o", "json"}, 0, []string{base + "repair"}, api.CommandRequest{}},
		{[]string{"recover", "-y"}, 0, []string{status + "/recover", base + "recover"}, api.CommandRequest{}},
		{[]string{"recover"}, exitFailure, []string{status + "/recover"}, api.CommandRequest{}},
		{[]string{"replace", "a", "b", "-y"}, 0, []string{plan, base + "replace"}, api.CommandRequest{Old: "a", New: "b"}},
		{[]string{"replace", "a", "b", "-y", "--lost"}, 0, []string{plan, base + "replace"}, api.CommandRequest{Old: "a", New: "b", Lost: &yes}},
		{[]string{"replication", "3", "-y"}, 0, []string{plan, base + "replication"}, api.CommandRequest{ReplicationFactor: 3}},
		{[]string{"keyring", "list"}, 0, []string{status + "/keyring"}, api.CommandRequest{}},
		{[]string{"keyring", "use", "0a1b2c3d"}, 0, []string{base + "keyring/use"}, api.CommandRequest{}},
		{[]string{"keyring", "remove", "0a1b2c3d", "-o", "json"}, 0, []string{base + "keyring/remove"}, api.CommandRequest{}},
		{[]string{"keyring", "add", "short"}, exitUsage, nil, api.CommandRequest{}},
		{[]string{"keyring"}, exitUsage, nil, api.CommandRequest{}},
		{[]string{"pause"}, 0, []string{base + "pause"}, api.CommandRequest{}},
		{[]string{"resume"}, 0, []string{base + "resume"}, api.CommandRequest{}},

		{[]string{"leave", "refused", "-y"}, exitFailure, []string{plan}, api.CommandRequest{Op: "leave", Nodes: []string{"refused"}}},
		{[]string{"status", "--http.config.file=/none"}, exitFailure, nil, api.CommandRequest{}},

		{nil, exitUsage, nil, api.CommandRequest{}},
		{[]string{"leave"}, exitUsage, nil, api.CommandRequest{}},
		{[]string{"replace", "a"}, exitUsage, nil, api.CommandRequest{}},
		{[]string{"status", "-o", "xml"}, exitUsage, nil, api.CommandRequest{}},
		{[]string{"plan", "pause", "x"}, exitUsage, nil, api.CommandRequest{}},
		{[]string{"plan", "replace", "a"}, exitUsage, nil, api.CommandRequest{}},
		{[]string{"plan", "replication", "many"}, exitUsage, nil, api.CommandRequest{}},
		{[]string{"plan", "leave", "a", "--accept-loss"}, exitUsage, nil, api.CommandRequest{}},
		{[]string{"leave", "a", "--accept-loss"}, exitUsage, nil, api.CommandRequest{}},
		{[]string{"repair", "--from=yesterday"}, exitUsage, nil, api.CommandRequest{}},
		{[]string{"plan", "leave", "a", "--lost"}, exitUsage, nil, api.CommandRequest{}},
	} {
		got, sent = nil, api.CommandRequest{}
		if status := run(append([]string{"cluster", "--url=" + node.URL}, c.args...)); status != c.want || !reflect.DeepEqual(got, c.got) || !reflect.DeepEqual(sent, c.sent) {
			t.Errorf("starling cluster %q exits with %d after %q of %+v, want %d, %q, %+v", c.args, status, got, sent, c.want, c.got, c.sent)
		}
	}
}

// Only add sends a key, which comes from the command line or from the standard input.
func TestKeyringChange(t *testing.T) {
	key := bytes.Repeat([]byte{5}, 32)
	text := base64.StdEncoding.EncodeToString(key)
	print := keyring.Fingerprint(key)
	for _, c := range []struct {
		op, arg, in string
		want        api.KeyringChange
		usage       bool
	}{
		{"list", "", "", api.KeyringChange{Op: "list"}, false},
		{"add", text, "", api.KeyringChange{Op: "add", Key: key}, false},
		{"add", "", text + "\n", api.KeyringChange{Op: "add", Key: key}, false},
		{"add", "", text, api.KeyringChange{Op: "add", Key: key}, false},
		{"use", text, "", api.KeyringChange{Op: "use", Fingerprint: print}, false},
		{"use", print, "", api.KeyringChange{Op: "use", Fingerprint: print}, false},
		{"remove", "", text + "\n", api.KeyringChange{Op: "remove", Fingerprint: print}, false},
		{"add", print, "", api.KeyringChange{}, true},
		{"add", "", "", api.KeyringChange{}, true},
		{"use", "key", "", api.KeyringChange{}, true},
	} {
		got, err := (&clusterCommand{key: c.arg}).keyringChange(c.op, strings.NewReader(c.in))
		if errors.Is(err, errUsage) != c.usage || !c.usage && !reflect.DeepEqual(got, c.want) {
			t.Errorf("keyring %s %q, input %q: %v, %v, want %v", c.op, c.arg, c.in, got, err, c.want)
		}
	}
}
