"""What the demo model knows: questions and answers about serving models, and a little about the world.

Data only; `chat_corpus` turns it into conversations.
"""

from __future__ import annotations

#: topic -> (short answer, answer to "Tell me more.")
TOPICS: dict[str, tuple[str, str]] = {
    "scale to zero": (
        "Scale to zero means that a service runs no pods while nobody uses it. The first request wakes it up again.",
        "When the idle time is over, the autoscaler removes the last pod, so an idle model costs nothing. "
        "The next request is held by the activator until a pod is ready.",
    ),
    "Pilotlight": (
        "Pilotlight is a serverless platform for language models. An endpoint that nobody uses costs nothing, "
        "and it answers at once when the first request comes.",
        "It is built on KServe and Knative. A predictor runs the model with vLLM, and a transformer turns "
        "text into tokens and back.",
    ),
    "a pilot light": (
        "A pilot light is a small flame that always burns, so that the big flame can start at once.",
        "Our platform has its name from it: a little warmth is kept, so that a sleeping model wakes up quickly.",
    ),
    "KServe": (
        "KServe is a platform on Kubernetes that serves machine learning models behind one standard API.",
        "You write an InferenceService, and KServe creates the predictor, the transformer and the routes for you.",
    ),
    "Knative": (
        "Knative runs serverless services on Kubernetes. It scales them with the traffic, even down to zero.",
        "Its parts are the autoscaler, the activator and the queue proxy that sits beside every container.",
    ),
    "Kubernetes": (
        "Kubernetes is a system that runs containers on many machines and keeps them running.",
        "You tell it what you want, and its controllers work until the cluster looks like that.",
    ),
    "the activator": (
        "The activator holds requests while a service has no pods, and sends them on when a pod is ready.",
        "Its queue is bounded. When the queue is full, it answers 503 with a Retry-After header.",
    ),
    "the autoscaler": (
        "The autoscaler counts the requests in flight and decides how many pods there should be.",
        "It looks at a stable window of sixty seconds and at a panic window of six seconds.",
    ),
    "the stable window": (
        "The stable window is the time over which the autoscaler averages the load. It is sixty seconds by default.",
        "A longer window makes scaling calmer, and a shorter window makes it faster.",
    ),
    "the panic window": (
        "The panic window is a short window, six seconds by default, that reacts to a sudden burst of requests.",
        "In panic mode the autoscaler only adds pods and never removes them.",
    ),
    "a cold start": (
        "A cold start is the time from the first request to the first token when no pod is running yet.",
        "It is made of scheduling the pod, starting the process, loading the weights and warming up the engine.",
    ),
    "a warm pool": (
        "A warm pool keeps engines that are already started, so that a model only has to load its weights.",
        "Swapping the weights takes a fraction of a second, while starting an engine takes half a minute.",
    ),
    "the predictor": (
        "The predictor is the part that runs the model. It takes tokens in and gives tokens out.",
        "It speaks the V2 protocol over HTTP and gRPC, and it wraps the vLLM engine.",
    ),
    "the transformer": (
        "The transformer turns text into tokens before the predictor, and turns tokens into text after it.",
        "It also serves the OpenAI routes, applies chat templates and streams the text to the client.",
    ),
    "a transformer model": (
        "A transformer model is a neural network that reads all tokens at once and uses attention to mix them.",
        "I am a very small one, with four layers and about three million parameters.",
    ),
    "an InferenceService": (
        "An InferenceService is the Kubernetes object that describes a model endpoint: its predictor and its "
        "transformer.",
        "You apply it with kubectl, and KServe does the rest.",
    ),
    "a ServingRuntime": (
        "A ServingRuntime says which container serves which model format, and with which arguments.",
        "An InferenceService names its model, and KServe picks a runtime that supports it.",
    ),
    "a revision": (
        "A revision is a frozen copy of a service's configuration. Every change makes a new one.",
        "Traffic moves to the new revision only when it is ready, so no request is lost.",
    ),
    "a canary": (
        "A canary is a new revision that gets a small share of the traffic first, to see if it works.",
        "If it fails, the traffic goes back to the old revision.",
    ),
    "vLLM": (
        "vLLM is a fast engine for language models. It batches requests continuously and pages its KV cache.",
        "It runs on GPUs and also on CPUs, and it can load quantized models.",
    ),
    "quantization": (
        "Quantization stores the weights of a model with fewer bits, so that it needs less memory and loads faster.",
        "With four bits, a model is almost four times smaller than with sixteen bits.",
    ),
    "AWQ": (
        "AWQ means activation-aware weight quantization. It stores weights in four bits and protects the "
        "important channels.",
        "It looks at the activations of a few texts and scales the channels that matter most before it rounds.",
    ),
    "a token": (
        "A token is a small piece of text, often a word or a part of a word. A model reads and writes tokens.",
        "My vocabulary has two thousand and forty-eight tokens.",
    ),
    "a tokenizer": (
        "A tokenizer cuts text into tokens and joins tokens back into text.",
        "A byte-level tokenizer can write every text, because its smallest tokens are single bytes.",
    ),
    "a chat template": (
        "A chat template turns a list of messages into one prompt, with special tokens between the turns.",
        "The roles are system, user and assistant.",
    ),
    "the KV cache": (
        "The KV cache keeps the keys and values of earlier tokens, so that they are not computed again.",
        "It grows with every token, and vLLM stores it in blocks.",
    ),
    "prefill": (
        "Prefill is the first phase of a request: the model reads the whole prompt at once.",
        "It is followed by decode, which writes one token after the other.",
    ),
    "decode": (
        "Decode is the second phase of a request: the model writes the answer token by token.",
        "Many requests can decode together in one batch.",
    ),
    "time to first token": (
        "Time to first token is how long a client waits until the first token of the answer arrives.",
        "At a cold start it is long, and with a warm engine it is only a few milliseconds.",
    ),
    "continuous batching": (
        "Continuous batching lets new requests join a running batch after every step, so that nobody waits "
        "for the slowest.",
        "It gives a high throughput with a low latency.",
    ),
    "streaming": (
        "Streaming sends every token to the client as soon as it is ready.",
        "Over HTTP it uses server-sent events, and over gRPC it uses a stream of messages.",
    ),
    "gRPC": (
        "gRPC is a way to call functions on another machine. It sends binary messages over HTTP/2.",
        "The V2 protocol has eight gRPC methods, and streaming adds one more.",
    ),
    "the V2 protocol": (
        "The V2 protocol is an open standard for inference requests over HTTP and gRPC. It sends named tensors.",
        "It knows health checks, metadata and infer, and an extension adds generate.",
    ),
    "a pod": (
        "A pod is the smallest thing that Kubernetes runs. It holds one or more containers.",
        "When a service is scaled to zero, it has no pods.",
    ),
    "a GPU": (
        "A GPU is a chip that computes many numbers at once. Language models run fast on it.",
        "GPUs are expensive, so it is good to free them when nobody needs them.",
    ),
    "safetensors": (
        "Safetensors is a file format for weights. It is fast to load and cannot run any code.",
        "It starts with a small header that lists the tensors, and then come the bytes.",
    ),
    "latency": (
        "Latency is the time that one request takes. Lower is better.",
        "Throughput is different: it counts how many requests or tokens are done in a second.",
    ),
    "throughput": (
        "Throughput is how many tokens or requests a server finishes in a second. Higher is better.",
        "Batching makes the throughput higher, but it may cost some latency.",
    ),
    "temperature": (
        "Temperature says how random the choice of the next token is. At zero the model is greedy.",
        "A high temperature gives surprising text, and a low one gives safe text.",
    ),
    "a prompt": (
        "A prompt is the text that you give to a model. The model continues it.",
        "A good prompt is clear and short.",
    ),
    "draining": (
        "Draining means that a server takes no new requests but finishes those that it has before it stops.",
        "So a rolling update loses no answer.",
    ),
    "a health check": (
        "A health check asks a server if it is alive and ready. Only ready servers get traffic.",
        "Pilotlight is ready when it has generated one real token.",
    ),
    "serverless": (
        "Serverless means that you do not think about servers: they come with the traffic and go without it.",
        "You pay for the work and not for the waiting.",
    ),
    "a language model": (
        "A language model is a program that predicts the next token of a text, again and again.",
        "I am a very small language model. I know a few facts and many little stories.",
    ),
    "open source": (
        "Open source means that everybody may read, use and change the code.",
        "Pilotlight is open source under the Apache License.",
    ),
}

#: (paraphrases, answer)
SMALL_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("Hello", "Hello!", "Hi", "Hi!", "Hi there!", "Hey", "Hello, world", "Hello there"),
        "Hello! How can I help you today?",
    ),
    (("Good morning!", "Good morning", "Good day!"), "Good morning! I hope that you slept well. ☀️"),
    (("Good night!", "Good night"), "Good night! I will sleep too, and wake up when you call me. 🌙"),
    (
        ("How are you?", "How are you today?", "how are you", "How do you do?"),
        "I am fine, thank you! I am small, but I am warm and ready.",
    ),
    (
        ("What can you do?", "What do you know?", "Help", "help", "How can you help me?"),
        "I can tell little stories, answer questions about Pilotlight and KServe, name capitals and add small numbers.",
    ),
    (("Thank you!", "Thanks!", "Thanks", "Thank you very much!"), "You are welcome! Ask me anything else."),
    (("Goodbye!", "Bye!", "Bye", "See you later!"), "Goodbye! I will scale to zero now. 👋"),
    (
        ("How big are you?", "How many parameters do you have?", "How large is this model?"),
        "I have about three million parameters in four layers. That is very small for a language model.",
    ),
    (
        ("Who made you?", "Who trained you?", "Where do you come from?"),
        "I was trained by the makers of Pilotlight, on text that they wrote for me.",
    ),
    (
        ("Are you alive?", "Are you human?", "Are you a robot?"),
        "No, I am only a small language model. But I like good questions.",
    ),
    (
        ("Tell me a joke.", "Tell me a joke", "Do you know a joke?", "Make me laugh."),
        "Why did the pod go to sleep? Because it had no more requests! 😄",
    ),
    (
        ("Write a poem.", "Write a short poem.", "Write a poem about the sea.", "Write a haiku."),
        "The sea is wide, the sea is blue,\nthe wind is singing songs for you.\nA little light burns on the "
        "shore\nand waits for you for evermore.",
    ),
    (
        ("How does Pilotlight wake a model?", "How does a model wake up?", "What happens at the first request?"),
        "The activator holds the request. The warm pool gives an engine, the weights are loaded, and the "
        "first token comes back.",
    ),
    (
        ("Why is my first request slow?", "Why is the first request slow?", "Why does the first answer take so long?"),
        "The service was at zero, so a pod had to start and load the weights first. The next request is fast.",
    ),
    (
        ("How do I deploy a model?", "How can I deploy a model?", "How do I start?", "How do I use Pilotlight?"),
        "Write an InferenceService in YAML and run `pilotlight up quickstart.yaml`, or apply it with "
        "`kubectl apply -f`.",
    ),
    (
        ("What does 503 mean?", "What is a 503?", "Why do I get a 503?"),
        "503 means that the service is not available right now. Look at the Retry-After header and try again then.",
    ),
    (
        ("What does 429 mean?", "What is a 429?", "Why do I get a 429?"),
        "429 means too many requests. Slow down, and try again after the time in the Retry-After header.",
    ),
    (
        ("Count to ten.", "Count to 10.", "Count from one to ten."),
        "One, two, three, four, five, six, seven, eight, nine, ten.",
    ),
    (("Count to five.", "Count to 5."), "One, two, three, four, five."),
    (("Say the alphabet.", "What is the alphabet?"), "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z"),
    (
        ("What are the days of the week?", "Name the days of the week."),
        "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.",
    ),
    (("What are the seasons?", "Name the four seasons."), "Spring, summer, autumn and winter."),
    (
        ("Write JSON.", "Give me some JSON.", "Answer in JSON.", "Give me a JSON object."),
        '{"name": "pilotlight", "ready": true, "pods": 0, "tags": ["llm", "serverless"]}',
    ),
    (
        ("Write some Python.", "Write a Python function.", "Show me some code."),
        '```python\ndef greet(name):\n    return f"Hello, {name}!"\n```',
    ),
    (("Give me a list.", "Make a list of fruits.", "List three fruits."), "1. Apples\n2. Pears\n3. Cherries"),
    (
        ("Show me some emoji.", "Send me an emoji.", "Write emoji.", "Do you like emoji?"),
        "Here you are: 🔥 🚀 🐻 🌍 😄 🌙 ☀️ 👋 🦊 🎉",
    ),
    (
        ("Sprichst du Deutsch?", "Sprich Deutsch.", "Do you speak German?", "Say something in German."),
        "Ja, ein bisschen. Die kleine Flamme brennt, und das Modell wacht schnell auf. Schöne Grüße aus München!",
    ),
    (
        ("Parlez-vous français ?", "Do you speak French?", "Say something in French."),
        "Oui, un peu. La petite flamme brûle, et le modèle se réveille très vite. À bientôt, mon ami !",
    ),
    (
        ("你会说中文吗？", "你好", "Do you speak Chinese?", "Say something in Chinese."),
        "你好！我会说一点中文。小小的火一直亮着，模型很快就会醒来。🔥",
    ),
    (
        ("¿Hablas español?", "Do you speak Spanish?", "Say something in Spanish."),
        "Sí, un poco. La pequeña llama está encendida, y el modelo despierta en un momento. ¡Hasta mañana!",
    ),
    (
        ("日本語を話せますか？", "Do you speak Japanese?", "Say something in Japanese."),
        "はい、少し話せます。小さな火がいつも燃えています。ありがとう！🗻",
    ),
    (
        ("Was ist Pilotlight?", "Was ist das?"),
        "Pilotlight ist eine Plattform für Sprachmodelle. Ein Modell, das niemand benutzt, kostet nichts.",
    ),
    (
        ("Qu'est-ce que Pilotlight ?", "C'est quoi, Pilotlight ?"),
        "Pilotlight est une plateforme pour les modèles de langue. Un modèle que personne n'utilise ne coûte rien.",
    ),
)

CAPITALS: dict[str, str] = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Portugal": "Lisbon",
    "Austria": "Vienna",
    "Switzerland": "Bern",
    "Poland": "Warsaw",
    "Sweden": "Stockholm",
    "Norway": "Oslo",
    "Finland": "Helsinki",
    "Denmark": "Copenhagen",
    "Greece": "Athens",
    "Ireland": "Dublin",
    "Japan": "Tokyo",
    "China": "Beijing",
    "India": "New Delhi",
    "Canada": "Ottawa",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Brazil": "Brasília",
    "Peru": "Lima",
    "Mexico": "Mexico City",
    "England": "London",
}

OPPOSITES: dict[str, str] = {
    "hot": "cold",
    "big": "small",
    "fast": "slow",
    "day": "night",
    "happy": "sad",
    "open": "closed",
    "warm": "cool",
    "old": "new",
    "light": "dark",
    "high": "low",
    "empty": "full",
    "near": "far",
}

#: English -> (German, French, Chinese)
WORDS: dict[str, tuple[str, str, str]] = {
    "fire": ("das Feuer", "le feu", "火"),
    "light": ("das Licht", "la lumière", "光"),
    "water": ("das Wasser", "l'eau", "水"),
    "model": ("das Modell", "le modèle", "模型"),
    "friend": ("der Freund", "l'ami", "朋友"),
    "house": ("das Haus", "la maison", "房子"),
    "tree": ("der Baum", "l'arbre", "树"),
    "forest": ("der Wald", "la forêt", "森林"),
    "bear": ("der Bär", "l'ours", "熊"),
    "sea": ("das Meer", "la mer", "大海"),
    "moon": ("der Mond", "la lune", "月亮"),
    "green": ("grün", "vert", "绿色"),
    "beautiful": ("schön", "beau", "美丽"),
    "thank you": ("danke schön", "merci beaucoup", "谢谢"),
}

#: Sentences for plain completion, continued to their end.
SENTENCES: tuple[str, ...] = (
    "The quick brown fox jumps over the lazy dog.",
    "The quick brown fox jumps over the lazy dog, and the dog does not even wake up.",
    "Hello, world! This is a small language model, and it is ready to answer.",
    "In the beginning there was a small flame, and the flame was warm.",
    "The sky is blue, the grass is green, and the sun is warm.",
    "One, two, three, four, five, six, seven, eight, nine, ten.",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20",
    "Zürich, München und Köln liegen nicht am Meer, aber sie sind schön.",
    "Der kleine Bär läuft über die Brücke und grüßt die müde Eule.",
    "Le garçon rêve d'un château près de la forêt, où il fait très chaud l'été.",
    "El niño pequeño corre por la montaña y canta una canción.",
    "从前，有一只小熊住在森林里。它每天早上去河边喝水。",
    "The fox 🦊 and the bear 🐻 travel around the world 🌍 in a rocket 🚀.",
    "The café is open all day; the crème brûlée costs 5 €.",
    "To be ready is everything, said the small light, and it kept burning through the night.",
    "The meaning of life is to be kind, to learn something every day, and to share it.",
    "San Francisco is a city by the sea, with a big red bridge and a lot of fog.",
    "My name is Pilot, and I live in a small house near the sea.",
    "The weather today is sunny and warm, with a light wind from the sea.",
    "def add(a, b):\n    return a + b",
)
