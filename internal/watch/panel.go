package watch

import (
	"cmp"
	"strconv"
)

// size returns how much of the grid a panel takes.
func (p *panel) size() (w, h int) {
	w, h = p.width, p.height
	if w == 0 {
		w = map[kind]int{chart: 8, figure: 4, table: 24}[p.kind]
	}
	if h == 0 {
		h = map[kind]int{chart: 8, figure: 4, table: 7}[p.kind]
	}
	return w, h
}

// render returns a panel without its place.
func (p *panel) render() object {
	var targets []object
	for i, a := range p.asks {
		t := object{
			"refId": string(rune('A' + i)), "datasource": source(), "expr": selectors.Replace(a.expr),
			"legendFormat": a.legend, "editorMode": "code", "range": p.kind == chart, "instant": p.kind != chart,
		}
		if p.kind == table {
			t["format"] = "table"
		}
		targets = append(targets, t)
	}
	o := object{
		"type": p.kind, "title": p.title, "description": p.about, "datasource": source(), "targets": targets,
		"fieldConfig": object{"defaults": p.defaults(), "overrides": p.overrides()},
		"options":     p.options(),
	}
	if p.kind == table {
		o["transformations"] = p.transformations()
	}
	return o
}

// defaults say how values are shown.
func (p *panel) defaults() object {
	o := object{
		"unit": cmp.Or(p.unit, "none"), "min": 0, "mappings": mappings(p.says),
		"thresholds": thresholds(p.steps),
		"color":      object{"mode": "thresholds"},
	}
	if p.most != 0 {
		o["max"] = p.most
	}
	switch p.kind {
	case figure:
		delete(o, "min")
		o["noValue"] = "none"
	case table:
		delete(o, "min")
		o["custom"] = object{"align": "auto"}
	case chart:
		o["color"] = object{"mode": "palette-classic"}
		o["custom"] = p.drawing()
	}
	return o
}

// overrides say how some series of a chart, or columns of a table, are shown unlike the others.
func (p *panel) overrides() []object {
	overrides := []object{}
	override := func(name string, properties ...object) {
		overrides = append(overrides, object{"matcher": object{"id": "byName", "options": name}, "properties": properties})
	}
	property := func(id string, value any) object { return object{"id": id, "value": value} }
	for _, s := range p.paint {
		override(s.legend, property("color", object{"mode": "fixed", "fixedColor": s.color}))
	}
	for _, c := range p.columns {
		var properties []object
		if c.unit != "" {
			properties = append(properties, property("unit", c.unit))
		}
		if len(c.says) > 0 {
			properties = append(properties, property("mappings", mappings(c.says)))
		}
		if len(c.steps) > 0 {
			properties = append(properties, property("thresholds", thresholds(c.steps)),
				property("custom.cellOptions", object{"type": "color-background", "mode": "basic"}))
		}
		if len(properties) > 0 {
			override(c.title, properties...)
		}
	}
	return overrides
}

func thresholds(from []step) object {
	steps := []object{}
	for i, s := range from {
		step := object{"color": s.color, "value": s.from}
		if i == 0 {
			step["value"] = nil
		}
		steps = append(steps, step)
	}
	if len(steps) == 0 {
		steps = append(steps, object{"color": "green", "value": nil})
	}
	return object{"mode": "absolute", "steps": steps}
}

// drawing says how the lines of a chart look.
func (p *panel) drawing() object {
	stacking, fill, lines := "none", 0, "off"
	if p.stacked {
		stacking, fill = "normal", 40
	}
	if len(p.steps) > 1 {
		lines = "dashed"
	}
	return object{
		"drawStyle": "line", "lineWidth": 1, "fillOpacity": fill, "showPoints": "auto", "spanNulls": false,
		"stacking": object{"mode": stacking, "group": "A"}, "thresholdsStyle": object{"mode": lines},
	}
}

func mappings(says map[string]string) []object {
	if len(says) == 0 {
		return []object{}
	}
	words, i := object{}, 0
	for _, value := range []int{-1, 0, 1} {
		if text, ok := says[strconv.Itoa(value)]; ok {
			words[strconv.Itoa(value)] = object{"text": text, "index": i}
			i++
		}
	}
	return []object{{"type": "value", "options": words}}
}

func (p *panel) options() object {
	switch p.kind {
	case figure:
		return object{
			"colorMode": "background", "graphMode": "none", "justifyMode": "auto", "textMode": "auto", "orientation": "auto",
			"reduceOptions": object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
		}
	case table:
		return object{"showHeader": true, "cellHeight": "sm"}
	}
	return object{
		"legend":  object{"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []string{}},
		"tooltip": object{"mode": "multi", "sort": "desc"},
	}
}

// transformations make one row of what the queries of a table say of one node.
func (p *panel) transformations() []object {
	hidden, places, titles := object{"Time": true, "__name__": true, "job": true, "cluster": true}, object{}, object{}
	for i := range p.asks {
		hidden["Value #"+string(rune('A'+i))] = true
	}
	for i, c := range p.columns {
		delete(hidden, c.field)
		places[c.field], titles[c.field] = i, c.title
	}
	return []object{
		{"id": "merge", "options": object{}},
		{"id": "organize", "options": object{"excludeByName": hidden, "indexByName": places, "renameByName": titles}},
	}
}
