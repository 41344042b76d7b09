package amqp

// check returns the bytes after the first value, or the error with which readValue would fail. It
// does not allocate.
func check(src []byte, depth int) (rest []byte, err error) {
	if depth > maxDepth {
		return nil, errDepth
	}
	if len(src) == 0 {
		return nil, errShort
	}
	if src[0] == codeDescribed {
		descriptor, rest, err := cutDescriptor(src[1:])
		if err != nil {
			return nil, err
		}
		if _, err = check(descriptor, depth+1); err != nil {
			return nil, err
		}
		return check(rest, depth+1)
	}
	b, rest, err := span(src[0], src[1:])
	if err != nil {
		return nil, err
	}
	return rest, checkBody(src[0], b, depth)
}

// checkBody checks the bytes that span returned.
func checkBody(code byte, b []byte, depth int) error {
	switch code {
	case codeBool:
		return checkBool(b)
	case codeList8, codeList32:
		n, b, err := count(code == codeList8, b)
		if err != nil {
			return err
		}
		return checkItems(n, b, depth)
	case codeMap8, codeMap32:
		n, b, err := pairs(code == codeMap8, b)
		if err != nil {
			return err
		}
		return checkItems(2*n, b, depth)
	case codeArray8, codeArray32:
		return checkArray(code == codeArray8, b, depth)
	}
	return nil
}

func checkItems(n int, b []byte, depth int) (err error) {
	for range n {
		if b, err = check(b, depth+1); err != nil {
			return err
		}
	}
	return trailing(b)
}

func checkArray(short bool, b []byte, depth int) error {
	a, err := arrayHead(short, b, depth)
	if err != nil {
		return err
	}
	if a.descriptor != nil {
		if _, err = check(a.descriptor, depth+1); err != nil {
			return err
		}
	}
	rest := a.items
	for range a.count {
		if b, rest, err = span(a.code, rest); err != nil {
			return err
		}
		if err = checkBody(a.code, b, depth+1); err != nil {
			return err
		}
	}
	return trailing(rest)
}
