package acceptance

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/prometheus/prometheus/prompb"
)

// screenshots names the directory that TestPage writes pictures of the page into.
const screenshots = "STARLING_SCREENSHOTS"

// browser finds Chromium, or skips the test.
func browser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "headless-shell", "headless_shell"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("no Chromium: apt-get install --no-install-recommends chromium")
	return ""
}

// tab is a page of a browser, and what it complained of.
type tab struct {
	*testing.T
	ctx context.Context

	mu       sync.Mutex
	problems []string
}

// screen is how a page is looked at.
type screen struct {
	name          string
	width, height int64
	dark, phone   bool
	// plain is without JavaScript.
	plain bool
}

var screens = []screen{
	{name: "light", width: 1280, height: 900}, {name: "dark", width: 1280, height: 900, dark: true},
	{name: "phone", width: 360, height: 740, phone: true}, {name: "phone-dark", width: 360, height: 740, dark: true, phone: true},
	{name: "plain", width: 1280, height: 900, plain: true},
}

// newTab opens a tab that looks at pages in one way.
func newTab(allocated context.Context, t *testing.T, s screen) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(allocated)
	t.Cleanup(cancel)
	b := &tab{T: t, ctx: ctx}
	messages := chromedp.Console(ctx) // violations of the policy are there, too, and what cannot be loaded
	go func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			b.complain(m.String() + " " + m.URL)
		}
	}()
	scheme := "light"
	if s.dark {
		scheme = "dark"
	}
	call(b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: s.plain})
	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: s.width, Height: s.height, DeviceScaleFactor: 1, Mobile: s.phone})
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	return b
}

// call sends a command to the browser.
func call[P, R any](b *tab, command cdp.Command[P, R], params P) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	if _, err := chromedp.Call(ctx, command, params); err != nil {
		b.Fatal(err)
	}
}

// evaluate returns what an expression is on the page.
func evaluate(b *tab, expression string) bool {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	is, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("!!("+expression+")"))
	if err != nil {
		b.Fatal(err)
	}
	return is
}

func (b *tab) complain(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problems = append(b.problems, what)
}

func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.Fatal(err)
	}
}

// holds evaluates an expression, which is to be true.
func (b *tab) holds(what, expression string) {
	b.Helper()
	if !evaluate(b, expression) {
		b.Errorf("%s: %s is false", what, expression)
	}
}

// calm fails the test if the browser complained of anything but what is expected.
func (b *tab) calm(what string, expected ...string) {
	b.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.problems {
		known := false
		for _, e := range expected {
			known = known || strings.Contains(p, e)
		}
		if !known {
			b.Errorf("%s: the browser says: %s", what, p)
		}
	}
	b.problems = nil
}

// shoot writes a picture of the whole page, if there is a place for it.
func (b *tab) shoot(name string) {
	b.Helper()
	dir := os.Getenv(screenshots)
	if dir == "" {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	picture, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err := errors.Join(err, os.MkdirAll(dir, 0o777), os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o666)); err != nil {
		b.Fatal(err)
	}
}

// look opens a page in a way of looking and checks that it fits on the screen.
func (b *tab) look(name, address, wants string) {
	b.Helper()
	b.do(chromedp.Navigate(address), chromedp.WaitVisible(chromedp.CSS("main")))
	b.shoot(name)
	b.holds(name, fmt.Sprintf("document.querySelector('main').innerText.includes(%q)", wants))
	b.holds(name+": it fits in width", "document.documentElement.scrollWidth <= document.documentElement.clientWidth")
	b.holds(name+": the style sheet is used", "getComputedStyle(document.querySelector('.top')).display === 'flex'")
}

// TestPage looks at the page of a cluster of real nodes in a real browser: light and dark, on a
// phone, and without JavaScript; queries it, and sees it change when a node is killed.
func TestPage(t *testing.T) {
	requireAcceptance(t)
	t.Parallel()
	chromium := browser(t)
	program := buildStarling(t)
	processes := newProcesses(t, 3)
	for _, p := range processes {
		p.start(t, program)
	}
	awaitProcesses(t, processes)
	writeHour(t, processes[0].base)

	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.Flag("disable-dev-shm-usage", true))
	allocated, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	base := processes[0].base
	query := "/graph?range=1h&expr=" + url.QueryEscape(`page_wave`)
	for _, s := range screens {
		t.Run(s.name, func(t *testing.T) {
			b := newTab(allocated, t, s)
			b.look("flock-"+s.name, base+"/", "3 of 3")
			b.look("graph-"+s.name, base+query, "12 series")
			b.holds("the chart has its lines", "[...document.querySelectorAll('.chart .line')].filter(e => e.getBoundingClientRect().width > 100 && getComputedStyle(e).stroke !== 'none').length >= 10")
			b.look("instant-"+s.name, base+"/prometheus"+query+"&show=instant", "At")
			b.calm(s.name)
			b.look("error-"+s.name, base+"/graph?expr="+url.QueryEscape(`sum("<script>alert(1)</script>`), "bad_data")
			b.calm(s.name, "status of 400") // the answer's own status
		})
	}
	t.Run("use", func(t *testing.T) { usePage(t, newTab(allocated, t, screens[0]), processes) })
	stopCleanly(t, processes[:2])
}

// usePage types a query, and watches the page refresh itself when a node is killed.
func usePage(t *testing.T, b *tab, processes []*process) {
	b.do(chromedp.Navigate(processes[0].base+"/"), chromedp.SendKeys(chromedp.CSS("input[name=expr]"), "sum(page_wave)\r"),
		chromedp.WaitVisible(chromedp.CSS("#answer")))
	b.holds("a query that was typed", "location.pathname === '/graph' && document.querySelector('#answer').innerText.includes('1 series')")
	b.do(chromedp.Navigate(processes[0].base+"/"), chromedp.Focus(chromedp.CSS("#nodes .scroll")))
	b.holds("what the keyboard is on is seen", "document.activeElement.matches('.scroll')")
	b.holds("the page is marked", "document.body.dataset.kept = 'yes'")
	if code := processes[2].stop(t, syscall.SIGKILL); code != -1 {
		t.Errorf("killed node exited with %d", code)
	}
	mustWrite(t, processes[1].base, "page_missed", time.Now(), 1)
	eventually(t, 45*time.Second, "the page shows the dead node by itself", func(context.Context) error {
		if !evaluate(b, "document.body.dataset.kept === 'yes' && document.querySelector('#now').innerText.includes('dead') && document.querySelector('#gaps tbody')") {
			return errors.New("it does not")
		}
		return nil
	})
	b.holds("the keyboard is where it was", "document.activeElement.matches('#nodes .scroll') && document.activeElement.innerText.includes('dead')")
	b.shoot("flock-dead")
	b.calm("use")
}

// writeHour sends a sample a minute of a dozen series.
func writeHour(t *testing.T, base string) {
	t.Helper()
	var message prompb.WriteRequest
	now := time.Now().Truncate(time.Minute)
	for i := range 12 {
		series := prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: "page_wave"}, {Name: "room", Value: fmt.Sprintf("<b>%d</b>", i)}}}
		for m := range 60 {
			series.Samples = append(series.Samples, prompb.Sample{Timestamp: now.Add(time.Duration(m-59) * time.Minute).UnixMilli(), Value: float64(i*10 + (m*(i+3))%17)})
		}
		message.Timeseries = append(message.Timeseries, series)
	}
	if status, body, err := postWrite(t.Context(), base, &message); err != nil || status/100 != 2 {
		t.Fatalf("%d, %v: %s", status, err, body)
	}
}
