<?php

require __DIR__ . '/../vendor/autoload.php';

echo (new Example\Greet\Greeter())->hello('PHP');
