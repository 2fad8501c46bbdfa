<?php

namespace Example\Greet;

final class Greeter
{
    public function hello(string $from): string
    {
        return "Hello from $from\n";
    }
}
