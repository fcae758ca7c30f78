package damage

import "github.com/prometheus/prometheus/tsdb"

// ReadBlock runs what reads the index of a block, and notes what goes wrong as damage to the block.
func (g *Guard) ReadBlock(b *tsdb.Block, read func() error) error { return g.noteOf(b).do(read) }
