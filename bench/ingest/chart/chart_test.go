package chart

import (
	"image/png"
	"os"
	"path/filepath"
	"testing"
)

func TestSave(t *testing.T) {
	c := Chart{Title: "Memory", Unit: "MB", Lines: []Line{{Name: "node-1", Points: []Point{{0, 1}, {1, 3}, {2, 2}}}, {Name: "node-2"}}}
	if c.Empty() || !(Chart{Lines: []Line{{}}}).Empty() {
		t.Error("what has a point is empty, or what has none is not")
	}
	dir := filepath.Join(t.TempDir(), "new")
	if err := c.Save(dir, "memory.png"); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "memory.png"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := png.Decode(f); err != nil {
		t.Error(err)
	}
}
