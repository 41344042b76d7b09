package main

import (
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	glyph "gonum.org/v1/plot/vg/draw"

	inc "github.com/session-revoker/session-revoker/simulation/incident"
)

// The colors of what is shared in an incident, which differ for people who see no red and green.
var (
	idealColor    = color.Gray{Y: 0x80}
	incidentColor = map[bool]color.Color{true: color.RGBA{0x00, 0x60, 0xb0, 0xff}, false: color.RGBA{0xd0, 0x60, 0x00, 0xff}}
)

// drawIncident writes two plots of an incident: the people over time, and how long stolen devices
// waited.
func drawIncident(file, model string, results []inc.Result) error {
	people, devices := plot.New(), plot.New()
	people.Title.Text = "People signed out, quota model " + model
	people.X.Label.Text, people.Y.Label.Text = "minutes", "thousands of people"
	people.Legend.Top, people.Legend.Left, people.Legend.Padding = true, true, vg.Points(3)
	people.Add(plotter.NewGrid())
	ideal, err := plotter.NewLine(curve(results[0].Ideal))
	if err != nil {
		return err
	}
	ideal.Color, ideal.Dashes, ideal.Width = idealColor, []vg.Length{vg.Points(4), vg.Points(2)}, vg.Points(1.5)
	people.Legend.Add("the most that the quota allows", ideal)

	devices.Title.Text = "Stolen devices, quota model " + model
	devices.X.Label.Text, devices.Y.Label.Text = "minutes", "seconds from enqueued to call"
	devices.Y.Scale, devices.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	devices.Legend.Top, devices.Legend.Left, devices.Legend.Padding = true, true, vg.Points(3)
	devices.Add(plotter.NewGrid())
	for _, r := range results {
		name := "sharing " + sharing(r.Config)
		l, err := plotter.NewLine(curve(r.Curve))
		if err != nil {
			return err
		}
		l.Color = incidentColor[r.Config.Redis]
		people.Add(l)
		people.Legend.Add(name, l)

		var waits plotter.XYs
		for _, s := range r.Stolen {
			waits = append(waits, plotter.XY{X: s.Seconds / 60, Y: max(s.Waited, 0.01)})
		}
		points, err := plotter.NewScatter(waits)
		if err != nil {
			return err
		}
		points.Color, points.Radius, points.Shape = incidentColor[r.Config.Redis], vg.Points(1.5), glyph.CircleGlyph{}
		devices.Add(points)
		devices.Legend.Add(name, points)
	}
	people.Add(ideal) // above the others, which can be as good
	goal := plotter.NewFunction(func(float64) float64 { return 2 })
	goal.Color, goal.Dashes = idealColor, []vg.Length{vg.Points(4), vg.Points(2)}
	devices.Add(goal)
	devices.Legend.Add("goal for 99 of 100 while Graph is up: 2 s", goal)
	devices.Y.Min, devices.Y.Max = 0.01, 2000
	if err := people.Save(16*vg.Centimeter, 10*vg.Centimeter, file+"-people.svg"); err != nil {
		return err
	}
	return devices.Save(16*vg.Centimeter, 10*vg.Centimeter, file+"-stolen.svg")
}

// curve converts points to minutes and thousands of people.
func curve(points []inc.Point) (xys plotter.XYs) {
	for _, p := range points {
		xys = append(xys, plotter.XY{X: p.Seconds / 60, Y: float64(p.People) / 1000})
	}
	return xys
}
