package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kingpin/v2"
)

var update = flag.Bool("update", false, "rewrite docs/flags.md")

const (
	flagsPage      = "../../docs/flags.md"
	operationsPage = "../../docs/operations.md"
)

// docs/flags.md lists every flag of every command as the program itself tells it.
func TestFlagsPage(t *testing.T) {
	cl := newCommandLine()
	// Parsing gives the flags their environment variables.
	if _, err := cl.app.Parse(nil); err != nil {
		t.Fatal(err)
	}
	want := flagsText(cl.app.Model())
	if *update {
		if err := os.WriteFile(flagsPage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := readPage(t, flagsPage); got != want {
		t.Errorf("%s does not list the flags as they are: `go test ./cmd/starling -run TestFlagsPage -update` rewrites it", flagsPage)
	}
}

func readPage(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func flagsText(m *kingpin.ApplicationModel) string {
	var b strings.Builder
	b.WriteString(`# Flags

Every flag of every command, as ` + "`starling --help`" + ` tells them; ` + "`go test ./cmd/starling -run TestFlagsPage -update`" + ` writes this page.
What the flags of a node mean for its operation is in [operations](operations.md#flags). A flag on the command line wins over the environment variable.

## A node

` + "`starling`, or `starling server`." + `

`)
	flagsTable(&b, m.FlagGroupModel)
	for _, c := range m.Commands {
		commandText(&b, c)
	}
	return b.String()
}

// commandText writes a command, if it has flags or arguments of its own, and those below it.
func commandText(b *strings.Builder, c *kingpin.CmdModel) {
	if c.Name != "help" && c.Name != "server" {
		fmt.Fprintf(b, "\n## starling %s", c.FullCommand)
		var args []string
		for _, a := range c.Args {
			args = append(args, "`"+a.Name+"`: "+a.Help)
		}
		fmt.Fprintf(b, "\n\n%s\n", cell(c.Help))
		if len(args) > 0 {
			fmt.Fprintf(b, "\nArguments: %s\n", cell(strings.Join(args, " ")))
		}
		if len(c.Flags) > 0 {
			b.WriteString("\n")
			flagsTable(b, c.FlagGroupModel)
		}
	}
	for _, sub := range c.Commands {
		commandText(b, sub)
	}
}

func flagsTable(b *strings.Builder, g *kingpin.FlagGroupModel) {
	b.WriteString("| flag | environment | default | |\n|---|---|---|---|\n")
	for _, f := range g.Flags {
		if f.Hidden || f.Name == "help" || f.Name == "version" {
			continue
		}
		fmt.Fprintf(b, "| `--%s` | %s | %s | %s |\n", f.Name, quoted(f.Envar), quoted(strings.Join(f.Default, " ")), cell(f.Help))
	}
}

func quoted(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

// cell is a text that Markdown shows as it is.
func cell(s string) string { return strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;").Replace(s) }

var (
	flagRow  = regexp.MustCompile("(?m)^\\| (`--[^|]+) \\|([^|]*)\\|")
	flagName = regexp.MustCompile("`--([a-z0-9.-]+)`")
)

// The table of docs/operations.md has every flag of a node, each with its default.
func TestOperationsHasTheFlags(t *testing.T) {
	page := readPage(t, operationsPage)
	_, page, _ = strings.Cut(page, "\n## Flags\n")
	page, _, _ = strings.Cut(page, "\n## ")
	listed := map[string]string{}
	for _, row := range flagRow.FindAllStringSubmatch(page, -1) {
		for _, name := range flagName.FindAllStringSubmatch(row[1], -1) {
			listed[name[1]] = strings.Trim(row[2], " `")
		}
	}
	for _, f := range newCommandLine().app.Model().Flags {
		if f.Hidden || f.Name == "help" || f.Name == "version" {
			continue
		}
		fallback, there := listed[f.Name]
		if want := strings.Join(f.Default, " "); !there || fallback != want {
			t.Errorf("--%s: listed %v, with the default %q, want %q", f.Name, there, fallback, want)
		}
		delete(listed, f.Name)
	}
	for name := range listed {
		t.Errorf("--%s is listed and is no flag", name)
	}
}
