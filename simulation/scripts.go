package simulation

import (
	"bufio"
	"bytes"
	"crypto/sha1" //nolint:gosec // Redis names scripts by it
	"encoding/hex"
	"fmt"
	"strconv"
	"sync"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	lua "github.com/yuin/gopher-lua"
)

// scripts runs the workers' scripts in the imitated Redis. The imitation makes an interpreter for
// each run, which was half of the memory and a third of the time of all scenarios; scripts keeps
// one. The scripts and the commands that they call are the same. TestScriptsRunAsInTheImitation
// compares the two. It is safe for concurrent use.
type scripts struct {
	mu     sync.Mutex // scripts run one at a time, as in Redis
	server *server.Server
	lua    *lua.LState
	known  map[string]*lua.LFunction // by the SHA-1 of their text

	// The commands of a script are a client of their own, and their answers are read from here.
	answers bytes.Buffer
	writer  *bufio.Writer
	reader  *bufio.Reader
	caller  *server.Peer
}

// KeepInterpreter makes redis run scripts in one interpreter, instead of one for each run. It must be
// called before the first command. The error is that of a connection to redis.
func KeepInterpreter(redis *miniredis.Miniredis) error {
	first, err := redis.Dial() // it starts the server
	if err != nil {
		return err
	}
	_ = first.Close()
	redis.Server().SetPreHook(newScripts(redis.Server()).run)
	return nil
}

func newScripts(of *server.Server) *scripts {
	s := &scripts{server: of, lua: lua.NewState(), known: map[string]*lua.LFunction{}}
	s.writer, s.reader = bufio.NewWriter(&s.answers), bufio.NewReader(&s.answers)
	s.caller = server.NewPeer(s.writer)
	module := s.lua.NewTable()
	module.RawSetString("call", s.lua.NewFunction(s.call))
	s.lua.SetGlobal("redis", module)
	return s
}

// run answers a client that runs a script, and leaves all other commands to the imitation.
func (s *scripts) run(client *server.Peer, command string, args ...string) (done bool) {
	if command != "EVAL" && command != "EVALSHA" || len(args) < 2 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sha := args[0]
	if command == "EVAL" {
		sum := sha1.Sum([]byte(args[0])) //nolint:gosec // see above
		sha = hex.EncodeToString(sum[:])
		if s.known[sha] == nil {
			script, err := s.lua.LoadString(args[0])
			if err != nil {
				client.WriteError("ERR " + err.Error())
				return true
			}
			s.known[sha] = script
		}
	}
	script := s.known[sha]
	keys, err := strconv.Atoi(args[1])
	if script == nil || err != nil || keys < 0 || keys > len(args)-2 {
		return false // the imitation says what is wrong
	}
	s.lua.SetGlobal("KEYS", s.list(args[2:2+keys]))
	s.lua.SetGlobal("ARGV", s.list(args[2+keys:]))
	defer s.lua.SetTop(0)
	s.lua.Push(script)
	if err := s.lua.PCall(0, 1, nil); err != nil {
		client.WriteError("ERR " + err.Error())
		return true
	}
	s.answer(client, s.lua.Get(1))
	return true
}

func (s *scripts) list(texts []string) *lua.LTable {
	list := s.lua.CreateTable(len(texts), 0)
	for _, text := range texts {
		list.Append(lua.LString(text))
	}
	return list
}

// call is redis.call: it gives a command to the imitation.
func (s *scripts) call(l *lua.LState) int {
	args := make([]string, l.GetTop())
	for i := range args {
		args[i] = l.CheckString(i + 1) // numbers become texts
	}
	s.answers.Reset()
	s.reader.Reset(&s.answers)
	s.server.Dispatch(s.caller, args)
	s.caller.Flush()
	answer, err := server.ParseReply(s.reader)
	if err != nil {
		l.RaiseError("%s", err)
	}
	l.Push(s.value(answer))
	return 1
}

// value is a command's answer as scripts see it.
func (s *scripts) value(answer any) lua.LValue {
	switch a := answer.(type) {
	case nil:
		return lua.LFalse
	case int:
		return lua.LNumber(a)
	case string:
		return lua.LString(a)
	case server.Simple:
		status := s.lua.NewTable()
		status.RawSetString("ok", lua.LString(a))
		return status
	case []any:
		list := s.lua.CreateTable(len(a), 0)
		for _, one := range a {
			list.Append(s.value(one))
		}
		return list
	}
	panic(fmt.Sprintf("the imitated Redis answers a script with a %T", answer))
}

// answer writes a script's result to its client.
func (s *scripts) answer(client *server.Peer, result lua.LValue) {
	switch r := result.(type) {
	case lua.LNumber:
		client.WriteInt(int(r))
	case lua.LString:
		client.WriteBulk(string(r))
	case *lua.LTable:
		client.WriteLen(r.Len())
		for i := range r.Len() {
			s.answer(client, r.RawGetInt(i+1))
		}
	default: // nil and false; no script returns anything else
		client.WriteNull()
	}
}
