package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kingpin/v2"
)

// TestInstalledFlags: what installs a node names flags and variables that there are.
func TestInstalledFlags(t *testing.T) {
	known := map[string]bool{}
	variable := strings.NewReplacer(".", "_", "-", "_")
	for _, f := range newCommandLine().app.Model().Flags {
		known["--"+f.Name], known["STARLING_"+strings.ToUpper(variable.Replace(f.Name))] = true, true
	}
	var commands func([]*kingpin.CmdModel)
	commands = func(all []*kingpin.CmdModel) {
		for _, c := range all {
			for _, f := range c.Flags {
				known[f.Envar] = true
			}
			commands(c.Commands)
		}
	}
	commands(newCommandLine().app.Model().Commands)
	root := filepath.Join("..", "..")
	files, err := filepath.Glob(filepath.Join(root, "docs", "*", "*.*"))
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, filepath.Join(root, "docker-compose.yml"), filepath.Join(root, "Dockerfile"))
	named := regexp.MustCompile(`(?m)(?:- |ExecStart=\S+ )(--(?:cluster|query|storage|tracing|web)[a-z.-]*)=|\b(STARLING_(?:CLUSTER|STORAGE|TRACING|WEB|QUERY)_[A-Z_]+)`)
	var with []string
	for _, file := range files {
		if !slices.Contains([]string{".yml", ".yaml", ".service", ""}, filepath.Ext(file)) {
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range named.FindAllStringSubmatch(string(b), -1) {
			with = append(with, filepath.Base(file))
			if flag := m[1] + m[2]; !known[flag] {
				t.Errorf("%s: there is no %s", file, flag)
			}
		}
	}
	for _, file := range []string{"docker-compose.yml", "Dockerfile", "kubernetes.yaml", "starling.service"} {
		if !slices.Contains(with, file) {
			t.Errorf("no flag is found in %s, of %s", file, strings.Join(slices.Compact(with), ", "))
		}
	}
}
