// Package internal holds no code but the tests of the structure of the packages below it.
package internal

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/starling-tsdb/starling/internal/"

// vocabulary may be imported by everybody: it is what packages talk to each other in.
var vocabulary = []string{"series", "table", "partial", "proof", "expiry", "pushdown", "spent", "tracing"}

// layers says, for each package, which others it may import beside the vocabulary. A
// package that is not listed is a mistake: say here where it belongs.
var layers = map[string]struct {
	imports []string
	reason  string
}{
	"series":            {nil, "the vocabulary knows nothing"},
	"table":             {nil, "the table's state machine is pure"},
	"page":              {[]string{"api", "readable"}, "a browser sees what the API answers, and nothing else"},
	"partial":           {nil, "the vocabulary knows nothing"},
	"spent":             {nil, "the vocabulary knows nothing"},
	"tracing":           {nil, "the vocabulary knows nothing"},
	"tracing/otlp":      {nil, "what is sent are spans, of whatever"},
	"proof":             {nil, "who serves a query is a pure function"},
	"merge":             {nil, "which value is answered is a pure function, the same in reads, compaction and imports"},
	"events":            {nil, "what was told is text"},
	"expiry":            {nil, "what is expired is a pure function"},
	"pushdown":          {nil, "what a query leaves to others follows from its text, and what they answer adds up without knowing them"},
	"evaluate":          {nil, "it evaluates the chunks that it is given"},
	"placement":         {nil, "placement is a pure function"},
	"plan":              {[]string{"placement"}, "what moves follows from two assignments and the placement alone"},
	"config":            {nil, "options do not depend on what they are for"},
	"damage":            {[]string{"statefile"}, "what is broken in a directory is a matter of files"},
	"storage":           {[]string{"damage", "merge", "statefile"}, "the store knows nothing of a cluster"},
	"handles":           {nil, "what a series is remembered by are bytes"},
	"receive":           {[]string{"handles"}, "decoding needs bytes, and what it made of them before"},
	"statefile":         {nil, "a file knows nothing of what is in it"},
	"gaps":              {[]string{"statefile"}, "a note knows nothing of what is missed"},
	"cluster":           {[]string{"statefile"}, "membership knows nothing of data"},
	"border":            {nil, "who may connect is decided by certificates and addresses, whatever is said afterwards"},
	"border/bordertest": {[]string{"border/issue"}, "it issues certificates for tests"},
	"border/issue":      {nil, "it issues certificates to whoever asks"},
	"door":              {nil, "who is let in is decided before anybody knows what for"},
	"keyring":           {[]string{"statefile"}, "keys are bytes in a file"},
	"simnet":            {nil, "a network in memory serves every test alike"},
	"transport":         {[]string{"transport/frame", "transport/peerpb", "workers"}, "what travels is given to it, and given on by it"},
	"transport/frame":   {nil, "bytes only"},
	"transport/peerpb":  {nil, "generated"},
	"handoff":           {[]string{"merge", "statefile"}, "what is missed moves between stores and notes that it knows by interfaces"},
	"repair":            {[]string{"damage", "handoff", "merge"}, "what is made good is copied by proven reads of the hand-off"},
	"workers":           {nil, "what runs on it is its callers' own"},
	"ingest":            {[]string{"workers"}, "the path of a write knows its owners by interfaces"},
	"query":             {[]string{"merge"}, "the path of a query knows its sources by an interface"},
	"admin":             {[]string{"api", "readable"}, "operators see what the API answers, and nothing else"},
	"readable":          {[]string{"api"}, "it puts into words what the API answers"},
	"history":           {[]string{"statefile"}, "it talks to nodes as any sender does"},
	"api":               {[]string{"receive"}, "the front door decodes, and hands on by interfaces"},
	"node": {[]string{"api", "border", "cluster", "config", "door", "events", "gaps", "handles", "handoff", "ingest", "keyring", "page", "placement", "plan", "query", "receive", "repair", "damage", "statefile", "storage", "tracing/otlp", "transport", "evaluate"},
		"the composition root knows the parts"},
	"faults": {[]string{"border/issue", "faults/copies", "faults/ledger", "faults/load", "faults/overlay", "faults/wire", "statefile"},
		"it runs processes, and reads what they left on their disks"},
	"faults/copies":       {[]string{"faults/ledger", "placement", "plan", "statefile", "storage"}, "what is on disks is read as the program writes it"},
	"faults/ledger":       {nil, "what was sent and answered is judged without knowing who answered"},
	"faults/load":         {[]string{"faults/ledger"}, "a load knows nodes by their URLs, however they run"},
	"faults/overlay":      {nil, "it changes text"},
	"faults/wire":         {nil, "it carries packets"},
	"freeport":            {nil, "ports are the machine's"},
	"model":               {nil, "it is all tests, of the rules that others keep"},
	"watch":               {nil, "it watches nodes by what they show to anybody"},
	"acceptance":          {nil, "it tests from a user's view"},
	"acceptance/external": {nil, "it knows nothing of this program"},
	"acceptance/workload": {nil, "it is a program of its own"},
}

// pure packages neither read clocks, nor start goroutines, nor do I/O, nor log.
var pure = []string{"series", "table", "placement", "plan", "proof", "merge", "expiry", "pushdown"}

var impure = []string{"os", "net", "net/http", "time", "sync", "log/slog", "context"}

func TestLayers(t *testing.T) {
	for dir, files := range sources(t) {
		layer, listed := layers[dir]
		if !listed && hasCode(files) {
			t.Errorf("internal/%s is not in the list of layers", dir)
			continue
		}
		for file, imports := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			for _, path := range imports {
				own, ours := strings.CutPrefix(path, module)
				if ours && !slices.Contains(vocabulary, own) && !slices.Contains(layer.imports, own) {
					t.Errorf("%s must not import internal/%s: %s", file, own, layer.reason)
				}
				if slices.Contains(pure, dir) && slices.Contains(impure, path) {
					t.Errorf("%s must not import %q: %s is pure", file, path, dir)
				}
			}
		}
	}
}

func TestEveryPackageIsDocumented(t *testing.T) {
	for dir, files := range sources(t) {
		documented := false
		for file := range files {
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			documented = documented || f.Doc != nil
		}
		if !documented {
			t.Errorf("no file of internal/%s says what the package is for", dir)
		}
	}
}

func hasCode(files map[string][]string) bool {
	for file := range files {
		if !strings.HasSuffix(file, "_test.go") {
			return true
		}
	}
	return false
}

// sources returns the imports of every Go file, by folder and file.
func sources(t *testing.T) map[string]map[string][]string {
	t.Helper()
	found := map[string]map[string][]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.Contains(path, "testdata") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		if found[dir] == nil {
			found[dir] = map[string][]string{}
		}
		found[dir][path] = []string{}
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			found[dir][path] = append(found[dir][path], name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < len(layers)/2 {
		t.Fatalf("only %d folders were found", len(found))
	}
	return found
}
